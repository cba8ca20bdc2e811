#pragma once

#include <cmath>
#include <cstdint>

#include "archon/base/host_device.hpp"

/// The arithmetic of one row of the chunked softmax: what the kernels of a GPU compute an element
/// at a time, and tests check on the CPU.
namespace archon::kernels {

/// What one rank knows of a token's distribution, the softmax of scale · logits: over its own
/// vocabulary rows only. Of the whole vocabulary, once those of all ranks are merged. Logits are
/// scaled after the largest is subtracted: a scaled logit, large at low temperatures, would be
/// rounded by more than the differences that count.
struct SoftmaxStats {
  float max;       ///< largest logit (-inf when the rank has no rows)
  float sum;       ///< Σ exp(s), s = scale · (logit − max)
  float weighted;  ///< Σ exp(s) · s
  float label;     ///< the label's logit; 0 where another rank holds it
};

/// Statistics of two sets of logits together, their labels apart.
ARCHON_HOST_DEVICE inline SoftmaxStats merge(const SoftmaxStats& a, const SoftmaxStats& b,
                                             float scale) {
  if (a.sum == 0) return b;
  if (b.sum == 0) return a;
  const SoftmaxStats &high = a.max >= b.max ? a : b, &low = a.max >= b.max ? b : a;
  const float shift = (low.max - high.max) * scale, factor = std::exp(shift);
  return {high.max, high.sum + low.sum * factor,
          high.weighted + (low.weighted + low.sum * shift) * factor, 0};
}

/// Those of a set of logits with kCount more in it.
template <int kCount>
ARCHON_HOST_DEVICE inline SoftmaxStats with_logits(const SoftmaxStats& stats,
                                                   const float (&logits)[kCount], float scale) {
  SoftmaxStats more{logits[0], 0, 0, 0};
  for (int j = 1; j < kCount; ++j) more.max = more.max < logits[j] ? logits[j] : more.max;
  if (stats.max >= more.max) more.max = stats.max;  // so that merging scales the few sums only
  for (int j = 0; j < kCount; ++j) {
    const float shifted = (logits[j] - more.max) * scale, e = std::exp(shifted);
    more.sum += e;
    more.weighted += e * shifted;
  }
  return merge(more, stats, scale);
}

/// Of one token over the whole vocabulary, from those of its `ranks` ranks, `stride` apart: in
/// their order, so that all of them get the same bits.
ARCHON_HOST_DEVICE inline SoftmaxStats merge_ranks(const SoftmaxStats* stats, int64_t stride,
                                                   int64_t ranks, float scale) {
  float max = -INFINITY;
  for (int64_t r = 0; r < ranks; ++r) {
    const float of_rank = stats[r * stride].max;
    max = max < of_rank ? of_rank : max;
  }
  SoftmaxStats all{max, 0, 0, 0};
  for (int64_t r = 0; r < ranks; ++r) {
    const SoftmaxStats& s = stats[r * stride];
    if (s.sum == 0) continue;
    const float shift = (s.max - max) * scale, factor = std::exp(shift);
    all.sum += s.sum * factor;
    all.weighted += (s.weighted + s.sum * shift) * factor;
    all.label += s.label;
  }
  return all;
}

/// The logarithm of a token's share. A vectorised exp may leave a sum a little below 1, but no
/// probability is above 1; NaN stays.
ARCHON_HOST_DEVICE inline float log_prob(float logit, const SoftmaxStats& whole, float scale) {
  const float log_p = (logit - whole.max) * scale - std::log(whole.sum);
  return 0.0F < log_p ? 0.0F : log_p;
}
ARCHON_HOST_DEVICE inline float log_prob(const SoftmaxStats& whole, float scale) {
  return log_prob(whole.label, whole, scale);
}
ARCHON_HOST_DEVICE inline float entropy(const SoftmaxStats& whole) {
  return std::log(whole.sum) - whole.weighted / whole.sum;
}

/// A rank's logits of one token, `width` from vocabulary row `first_row` on.
template <class T>
struct LogitRow {
  T* logits;
  int64_t width, first_row;
  float scale;

  ARCHON_HOST_DEVICE float at(int64_t i) const { return static_cast<float>(logits[i]); }
  /// Where the label is; below 0 if on another rank.
  ARCHON_HOST_DEVICE int64_t column_of(int64_t label) const {
    const int64_t column = label - first_row;
    return label >= 0 && column >= 0 && column < width ? column : -1;
  }
};

/// d(g·log p + h·H)/d logits of a token, with H the entropy: (g·onehot − p·(g + h·(z − E z))) for
/// scaled logits z. g and h are zero where the token has no label, or nothing depends on it.
struct RowGradient {
  float g, factor, slope, max, scale;
  bool none;  ///< the row's gradient is zero, whatever its logits are

  ARCHON_HOST_DEVICE RowGradient(float g, float h, const SoftmaxStats& whole, float scale)
      : g(g), slope(-h / whole.sum), max(whole.max), scale(scale), none(g == 0 && h == 0) {
    factor = -g / whole.sum - slope * (whole.weighted / whole.sum);
  }
  ARCHON_HOST_DEVICE float at(float logit, bool is_label) const {
    const float shifted = (logit - max) * scale;
    return (factor + slope * shifted) * std::exp(shifted) + (is_label ? g : 0.0F);
  }
};

}  // namespace archon::kernels
