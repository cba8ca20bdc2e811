#include "archon/checkpoint/compare.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>

#include "archon/base/error.hpp"
#include "measure.hpp"
#include "path_pattern.hpp"

namespace archon {
namespace {

using h5::DatasetInfo;
using Status = DatasetDifference::Status;
using DatasetList = std::map<std::string, DatasetInfo>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool wanted(const CompareOptions& options, const std::string& path) {
  const auto matches = [&](const std::string& pattern) { return matches_path(pattern, path); };
  return std::ranges::none_of(options.ignore, matches) &&
         (options.only.empty() || std::ranges::any_of(options.only, matches));
}

bool holds_numbers(const DatasetInfo& info) { return info.dtype != at::ScalarType::Undefined; }

// ---- tolerances ---------------------------------------------------------------------------------

/// Which bounds hold for which dataset.
class Bounds {
 public:
  explicit Bounds(const CompareOptions& options)
      : options_(options), used_(options.tolerances.size(), false) {
    check(options.rtol, options.atol);
    for (const Tolerance& each : options.tolerances)
      check(each.rtol, each.atol.value_or(options.atol));
  }

  /// Sets rtol and atol of `dataset`.
  void apply(DatasetDifference& dataset) {
    const auto found = std::ranges::find_if(options_.tolerances, [&](const Tolerance& each) {
      return matches_path(each.pattern, dataset.path);
    });
    const bool by_pattern = found != options_.tolerances.end();
    if (by_pattern) used_[static_cast<std::size_t>(found - options_.tolerances.begin())] = true;
    dataset.rtol = by_pattern ? found->rtol : options_.rtol;
    dataset.atol = by_pattern ? found->atol.value_or(options_.atol) : options_.atol;
  }

  std::vector<std::string> unused() const {
    std::vector<std::string> patterns;
    for (std::size_t i = 0; i < used_.size(); ++i)
      if (!used_[i]) patterns.push_back(options_.tolerances[i].pattern);
    return patterns;
  }

 private:
  static void check(double rtol, double atol) {
    const auto is_tolerance = [](double value) { return std::isfinite(value) && value >= 0; };
    ARCHON_VALIDATE(is_tolerance(rtol) && is_tolerance(atol),
                    "tolerances must be finite and not negative, but rtol = {} and atol = {}", rtol,
                    atol);
  }

  const CompareOptions& options_;
  std::vector<bool> used_;
};

// ---- padding ------------------------------------------------------------------------------------

/// Datasets of one row a token, as docs/file-formats.md names them.
bool is_token_dataset(const std::string& path) {
  constexpr std::array kNames = {"/input_ids",    "/loss_mask",  "/logprobs",   "/prox_logprobs",
                                 "/ref_logprobs", "/entropy",    "/old_values", "/returns",
                                 "/values",       "/advantages", "/logits",     "/final_norm"};
  return path.starts_with("/hidden/") || std::ranges::find(kNames, path) != kNames.end();
}

/// The last of a file's offsets: rows of token datasets from there on are padding.
std::optional<int64_t> packed_tokens(const TensorSource& source, const DatasetList& list) {
  const auto found = list.find("/cu_seqlens");
  if (found == list.end()) return {};
  const DatasetInfo& info = found->second;
  const bool is_integer =
      holds_numbers(info) && c10::isIntegralType(info.dtype, /*includeBool=*/false);
  if (!is_integer || info.shape.size() != 1 || info.rows() == 0) return {};
  return source.read(info, info.rows() - 1, 1, at::kLong).item<int64_t>();
}

/// Shape without padding.
std::vector<int64_t> packed_shape(const DatasetInfo& info, std::optional<int64_t> tokens) {
  std::vector<int64_t> shape = info.shape;
  if (tokens && !shape.empty() && is_token_dataset(info.path) && *tokens >= 0)
    shape[0] = std::min(shape[0], *tokens);
  return shape;
}

// ---- comparison ---------------------------------------------------------------------------------

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

const char* kind_text(const DatasetInfo& info) {
  return holds_numbers(info) ? c10::toString(info.dtype) : "not numbers";
}

std::vector<int64_t> unravel(int64_t index, const std::vector<int64_t>& shape) {
  std::vector<int64_t> where(shape.size());
  for (std::size_t dim = shape.size(); dim-- > 0; index /= shape[dim])
    where[dim] = index % shape[dim];
  return where;
}

/// A or B: where its tensors are, which they are, and how many rows of them are no padding.
struct Side {
  const TensorSource& source;
  DatasetList list;
  std::optional<int64_t> tokens;

  explicit Side(const TensorSource& source)
      : source(source), list(source.list()), tokens(packed_tokens(source, list)) {}

  const DatasetInfo* find(const std::string& path) const {
    const auto found = list.find(path);
    return found == list.end() ? nullptr : &found->second;
  }
  bool has_numbers(const std::string& path) const {
    const DatasetInfo* const info = find(path);
    return info != nullptr && holds_numbers(*info);
  }
};

void set_measured(DatasetDifference& result, const Measure& measure,
                  const std::vector<int64_t>& shape) {
  result.not_finite_a = measure.not_finite_a;
  result.not_finite_b = measure.not_finite_b;
  if (measure.where < 0) return;
  result.max_abs = measure.max_abs;
  result.max_rel = measure.largest > 0 ? measure.max_abs / measure.largest : kInfinity;
  result.where = unravel(measure.where, shape);
  result.value_a = measure.value_a;
  result.value_b = measure.value_b;
  result.cosine = measure.cosine();
  const bool tolerated = measure.max_abs <= result.atol + result.rtol * measure.largest;
  result.status = tolerated ? Status::within : Status::differs;
}

void compare_datasets(DatasetDifference& result, const Side& a, const Side& b) {
  const DatasetInfo* const in_a = a.find(result.path);
  const DatasetInfo* const in_b = b.find(result.path);
  if (in_a == nullptr || in_b == nullptr) {
    result.status = in_a == nullptr ? Status::missing_in_a : Status::missing_in_b;
    result.detail = shape_text((in_a == nullptr ? in_b : in_a)->shape);
    return;
  }
  if (holds_numbers(*in_a) != holds_numbers(*in_b)) {
    result.status = Status::type;
    result.detail = fmt::format("A: {}, B: {}", kind_text(*in_a), kind_text(*in_b));
    return;
  }
  const auto shape = packed_shape(*in_a, a.tokens ? a.tokens : b.tokens);
  if (shape != packed_shape(*in_b, b.tokens ? b.tokens : a.tokens)) {
    result.status = Status::shape;
    result.detail = fmt::format("A: {}, B: {}", shape_text(in_a->shape), shape_text(in_b->shape));
    return;
  }
  const int64_t rows = shape.empty() ? 1 : shape.front();
  const int64_t padding = std::max(in_a->rows(), in_b->rows()) - rows;
  if (padding > 0) result.detail = fmt::format("rows of padding left out: {}", padding);
  set_measured(result, measure_datasets(a.source, b.source, *in_a, *in_b, rows), shape);
}

}  // namespace

Comparison compare_files(const std::string& a, const std::string& b,
                         const CompareOptions& options) {
  Bounds bounds(options);
  const TensorSources sources = open_tensor_sources(a, b);
  const Side side_a(*sources.a), side_b(*sources.b);
  std::set<std::string> paths;
  for (const Side* side : {&side_a, &side_b})
    for (const auto& [path, info] : side->list)
      if (wanted(options, path)) paths.insert(path);

  Comparison result;
  if (!sources.note.empty()) result.notes.push_back(sources.note);
  for (const std::string& path : paths) {
    if (!side_a.has_numbers(path) && !side_b.has_numbers(path)) continue;
    DatasetDifference& dataset = result.datasets.emplace_back();
    dataset.path = path;
    bounds.apply(dataset);
    compare_datasets(dataset, side_a, side_b);
  }
  ARCHON_VALIDATE(!result.datasets.empty(),
                  "there is nothing to compare in {} and {}: no dataset of numbers is left after "
                  "the patterns; archon inspect lists what the files hold",
                  a, b);
  result.passed = std::ranges::all_of(result.datasets, &DatasetDifference::passed);
  result.unused_patterns = bounds.unused();
  return result;
}

}  // namespace archon
