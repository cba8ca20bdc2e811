#include "archon/checkpoint/compare.hpp"

#include <fmt/ranges.h>
#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <set>

#include "archon/base/error.hpp"
#include "tensor_source.hpp"

namespace archon {
namespace {

using h5::DatasetInfo;
using Status = DatasetDifference::Status;

constexpr int64_t kBlockElements = 1 << 20;  // 8 MiB of double precision
constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool matches(const std::vector<std::string>& patterns, const std::string& path) {
  const char* bare = path.c_str() + (path.starts_with('/') ? 1 : 0);
  return std::ranges::any_of(patterns, [&](const std::string& pattern) {
    return fnmatch(pattern.c_str(), path.c_str(), 0) == 0 || fnmatch(pattern.c_str(), bare, 0) == 0;
  });
}

bool wanted(const CompareOptions& options, const std::string& path) {
  return !matches(options.ignore, path) && (options.only.empty() || matches(options.only, path));
}

bool holds_numbers(const DatasetInfo& info) { return info.dtype != at::ScalarType::Undefined; }

int64_t elements(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

/// What is known of a pair of datasets after some of their elements.
struct Measure {
  double largest = 0;  ///< finite magnitude in A
  double max_abs = 0;
  int64_t where = -1;  ///< flat index of max_abs
  double dot = 0, square_a = 0, square_b = 0;
  int64_t not_finite_a = 0, not_finite_b = 0;

  void add(int64_t index, double a, double b, bool same) {
    const bool finite_a = std::isfinite(a), finite_b = std::isfinite(b);
    not_finite_a += !finite_a;
    not_finite_b += !finite_b;
    if (finite_a) largest = std::max(largest, std::abs(a));
    double difference = kInfinity;
    if (finite_a && finite_b) {
      dot += a * b;
      square_a += a * a;
      square_b += b * b;
      // Different integers may be rounded together; they differ by at least 1.
      difference = a == b ? 1 : std::abs(a - b);
    }
    if (!same && (where < 0 || difference > max_abs)) {
      max_abs = difference;
      where = index;
    }
  }

  double cosine() const {
    if (square_a == 0 && square_b == 0) return 1;
    const double lengths = std::sqrt(square_a) * std::sqrt(square_b);
    return lengths == 0 ? 0 : std::clamp(dot / lengths, -1.0, 1.0);
  }
};

void add_block(Measure& measure, int64_t first, const at::Tensor& a, const at::Tensor& b) {
  const int64_t count = a.numel();
  if (a.scalar_type() == at::kLong) {
    const auto* x = a.const_data_ptr<int64_t>();
    const auto* y = b.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < count; ++i)
      measure.add(first + i, static_cast<double>(x[i]), static_cast<double>(y[i]), x[i] == y[i]);
    return;
  }
  const auto* x = a.const_data_ptr<double>();
  const auto* y = b.const_data_ptr<double>();
  for (int64_t i = 0; i < count; ++i) {
    const bool same = x[i] == y[i] || (std::isnan(x[i]) && std::isnan(y[i]));
    measure.add(first + i, x[i], y[i], same);
  }
}

/// Integers are compared as such: double precision would round large ones together.
at::ScalarType common_type(at::ScalarType a, at::ScalarType b) {
  const auto fits = [](at::ScalarType dtype) {
    return c10::isIntegralType(dtype, /*includeBool=*/true) && dtype != at::kUInt64;
  };
  return fits(a) && fits(b) ? at::kLong : at::kDouble;
}

Measure measure_datasets(const TensorSource& a, const TensorSource& b, const DatasetInfo& in_a,
                         const DatasetInfo& in_b) {
  Measure measure;
  const int64_t total = elements(in_a.shape);
  if (total == 0) return measure;
  const at::ScalarType dtype = common_type(in_a.dtype, in_b.dtype);
  const int64_t rows = in_a.rows(), row = total / rows;
  const int64_t step = std::max<int64_t>(1, kBlockElements / row);
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin);
    add_block(measure, begin * row, a.read(in_a, begin, count, dtype),
              b.read(in_b, begin, count, dtype));
  }
  return measure;
}

std::vector<int64_t> unravel(int64_t index, const std::vector<int64_t>& shape) {
  std::vector<int64_t> where(shape.size());
  for (std::size_t dim = shape.size(); dim-- > 0; index /= shape[dim])
    where[dim] = index % shape[dim];
  return where;
}

std::string shape_text(const DatasetInfo& info) {
  return fmt::format("[{}]", fmt::join(info.shape, ", "));
}

const char* kind_text(const DatasetInfo& info) {
  return holds_numbers(info) ? c10::toString(info.dtype) : "not numbers";
}

DatasetDifference compare_datasets(const TensorSource& a, const TensorSource& b,
                                   const DatasetInfo& in_a, const DatasetInfo& in_b,
                                   const CompareOptions& options) {
  DatasetDifference result;
  result.path = in_a.path;
  if (holds_numbers(in_a) != holds_numbers(in_b)) {
    result.status = Status::type;
    result.detail = fmt::format("A: {}, B: {}", kind_text(in_a), kind_text(in_b));
    return result;
  }
  if (in_a.shape != in_b.shape) {
    result.status = Status::shape;
    result.detail = fmt::format("A: {}, B: {}", shape_text(in_a), shape_text(in_b));
    return result;
  }
  const Measure measure = measure_datasets(a, b, in_a, in_b);
  result.not_finite_a = measure.not_finite_a;
  result.not_finite_b = measure.not_finite_b;
  if (measure.where < 0) return result;
  result.max_abs = measure.max_abs;
  result.max_rel = measure.largest > 0 ? measure.max_abs / measure.largest : kInfinity;
  result.where = unravel(measure.where, in_a.shape);
  result.cosine = measure.cosine();
  const double tolerance = options.atol + options.rtol * measure.largest;
  result.status = measure.max_abs > tolerance ? Status::differs : Status::within;
  return result;
}

DatasetDifference missing(const DatasetInfo& there, Status status) {
  DatasetDifference result;
  result.path = there.path;
  result.status = status;
  result.detail = shape_text(there);
  return result;
}

bool passes(const DatasetDifference& difference) {
  return difference.status == Status::equal || difference.status == Status::within;
}

}  // namespace

Comparison compare_files(const std::string& a, const std::string& b,
                         const CompareOptions& options) {
  const auto is_tolerance = [](double value) { return std::isfinite(value) && value >= 0; };
  ARCHON_VALIDATE(is_tolerance(options.rtol) && is_tolerance(options.atol),
                  "tolerances must be finite and not negative, but rtol = {} and atol = {}",
                  options.rtol, options.atol);
  const auto source_a = open_tensor_source(a), source_b = open_tensor_source(b);
  const auto list_a = source_a->list(), list_b = source_b->list();
  std::set<std::string> paths;
  for (const auto& list : {&list_a, &list_b})
    for (const auto& [path, info] : *list)
      if (wanted(options, path)) paths.insert(path);

  Comparison result;
  for (const std::string& path : paths) {
    const auto in_a = list_a.find(path), in_b = list_b.find(path);
    const bool numbers_in_a = in_a != list_a.end() && holds_numbers(in_a->second);
    const bool numbers_in_b = in_b != list_b.end() && holds_numbers(in_b->second);
    if (!numbers_in_a && !numbers_in_b) continue;
    if (in_a == list_a.end())
      result.datasets.push_back(missing(in_b->second, Status::missing_in_a));
    else if (in_b == list_b.end())
      result.datasets.push_back(missing(in_a->second, Status::missing_in_b));
    else
      result.datasets.push_back(
          compare_datasets(*source_a, *source_b, in_a->second, in_b->second, options));
  }
  ARCHON_VALIDATE(!result.datasets.empty(),
                  "there is nothing to compare in {} and {}: no dataset of numbers is left after "
                  "the patterns; archon inspect lists what the files hold",
                  a, b);
  result.passed = std::ranges::all_of(result.datasets, passes);
  return result;
}

}  // namespace archon
