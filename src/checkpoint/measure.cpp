#include "measure.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

namespace archon {
namespace {

constexpr int64_t kBlockElements = 1 << 20;  // 8 MiB of double precision
constexpr double kInfinity = std::numeric_limits<double>::infinity();

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

}  // namespace

inline void Measure::add(int64_t index, double a, double b, bool same) {
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
    value_a = a;
    value_b = b;
  }
}

double Measure::cosine() const {
  if (square_a == 0 && square_b == 0) return 1;
  const double lengths = std::sqrt(square_a) * std::sqrt(square_b);
  return lengths == 0 ? 0 : std::clamp(dot / lengths, -1.0, 1.0);
}

Measure measure_datasets(const TensorSource& a, const TensorSource& b, const h5::DatasetInfo& in_a,
                         const h5::DatasetInfo& in_b, int64_t rows) {
  Measure measure;
  const std::vector<int64_t>& shape = in_a.shape;
  const int64_t row = std::accumulate(shape.begin() + (shape.empty() ? 0 : 1), shape.end(),
                                      int64_t{1}, std::multiplies<>());
  if (row == 0) return measure;
  const at::ScalarType dtype = common_type(in_a.dtype, in_b.dtype);
  const int64_t step = std::max<int64_t>(1, kBlockElements / row);
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin);
    add_block(measure, begin * row, a.read(in_a, begin, count, dtype),
              b.read(in_b, begin, count, dtype));
  }
  return measure;
}

}  // namespace archon
