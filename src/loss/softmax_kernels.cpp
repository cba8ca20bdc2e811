#include "softmax_kernels.hpp"

#include <cmath>

#include "archon/base/simd.hpp"

// Compiled with -ffast-math, so that sums and expf vectorise.
// Templates hold the loops; the overloads at the end give them their instruction sets.

namespace archon::kernels {
namespace {

template <class T>
ARCHON_INLINE SoftmaxStats row_stats(const T* logits, int64_t width, float scale) {
  float max = static_cast<float>(logits[0]);
  for (int64_t i = 1; i < width; ++i) {
    const float logit = static_cast<float>(logits[i]);
    max = logit > max ? logit : max;
  }
  float sum = 0, weighted = 0;
  for (int64_t i = 0; i < width; ++i) {
    const float shifted = (static_cast<float>(logits[i]) - max) * scale;
    const float e = std::exp(shifted);
    sum += e;
    weighted += e * shifted;
  }
  return {max, sum, weighted, 0};
}

template <class T>
ARCHON_INLINE void exponentiate_row(T* logits, int64_t width, float scale, float max, float factor,
                                    float slope) {
  for (int64_t i = 0; i < width; ++i) {
    const float shifted = (static_cast<float>(logits[i]) - max) * scale;
    logits[i] = static_cast<T>((factor + slope * shifted) * std::exp(shifted));
  }
}

}  // namespace

#define ARCHON_DEFINE_KERNELS(T)                                                               \
  ARCHON_SIMD_CLONES SoftmaxStats softmax_stats(const T* logits, int64_t width, float scale) { \
    return row_stats(logits, width, scale);                                                    \
  }                                                                                            \
  ARCHON_SIMD_CLONES void exponentiate(T* logits, int64_t width, float scale, float max,       \
                                       float factor, float slope) {                            \
    exponentiate_row(logits, width, scale, max, factor, slope);                                \
  }

ARCHON_DEFINE_KERNELS(float)
ARCHON_DEFINE_KERNELS(c10::BFloat16)

}  // namespace archon::kernels
