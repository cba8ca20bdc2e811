#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>

#include "archon/base/error.hpp"
#include "archon/model/registry.hpp"

namespace archon {
namespace {

bool tp_fits(const DecoderConfig& config, int tp) {
  return config.num_heads % tp == 0 && config.num_kv_heads % tp == 0;
}

/// `tp` must fit. With fewer key heads than cp ranks each is repeated cp / kv times, so that every
/// rank gets one; its query heads must then split as evenly.
bool cp_fits(const DecoderConfig& config, int cp, int tp) {
  const int64_t heads = config.num_heads / tp;
  const int64_t kv_heads = config.num_kv_heads / tp;
  if (heads % cp != 0) return false;
  if (kv_heads % cp == 0) return true;
  return cp % kv_heads == 0 && (heads / kv_heads) % (cp / kv_heads) == 0;
}

/// Up to four extents from 1 to `largest` that fit, the nearest to `wanted` first.
template <class Fits>
std::vector<int> nearest_that_fit(int wanted, int64_t largest, Fits fits) {
  std::vector<int> found;
  for (int extent = 1; extent <= largest; ++extent) {
    if (fits(extent)) found.push_back(extent);
  }
  std::stable_sort(found.begin(), found.end(),
                   [wanted](int a, int b) { return std::abs(a - wanted) < std::abs(b - wanted); });
  if (found.size() > 4) found.resize(4);
  return found;
}

}  // namespace

void validate_tp_heads(const DecoderConfig& config, int tp) {
  ARCHON_VALIDATE(tp >= 1, "--tp {} is no extent; give a number from 1", tp);
  if (tp_fits(config, tp)) return;
  const auto fitting = nearest_that_fit(tp, config.num_kv_heads,
                                        [&](int extent) { return tp_fits(config, extent); });
  throw InputError(fmt::format(
      "--tp {} does not fit {} attention heads and {} key/value heads: each tp rank needs the same "
      "number of both; --tp that fits, nearest first: {}",
      tp, config.num_heads, config.num_kv_heads, fmt::join(fitting, ", ")));
}

void validate_cp_heads(const DecoderConfig& config, int cp, int tp) {
  validate_tp_heads(config, tp);
  ARCHON_VALIDATE(cp >= 1, "--cp {} is no extent; give a number from 1", cp);
  if (cp_fits(config, cp, tp)) return;
  const int64_t heads = config.num_heads / tp;
  const auto fitting =
      nearest_that_fit(cp, heads, [&](int extent) { return cp_fits(config, extent, tp); });
  throw InputError(fmt::format(
      "--cp {} does not fit the {} attention heads and {} key/value heads that each of {} tp ranks "
      "holds (the model has {} and {}): cp must divide the former, and divide or be a multiple of "
      "the latter; --cp that fits with --tp {}, nearest first: {}",
      cp, heads, config.num_kv_heads / tp, tp, config.num_heads, config.num_kv_heads, tp,
      fmt::join(fitting, ", ")));
}

}  // namespace archon
