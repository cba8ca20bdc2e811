#include "softmax_kernels.hpp"

#include <cmath>

#include "archon/base/simd.hpp"

// Compiled with -ffast-math, so that sums and expf vectorise.
namespace archon::kernels {

ARCHON_SIMD_CLONES SoftmaxStats exponentiate(float* logits, int64_t width) {
  float max = logits[0];
  for (int64_t i = 1; i < width; ++i) max = logits[i] > max ? logits[i] : max;
  float sum = 0, weighted = 0;
  for (int64_t i = 0; i < width; ++i) {
    const float shifted = logits[i] - max;
    const float e = std::exp(shifted);
    sum += e;
    weighted += e * shifted;
    logits[i] = e;
  }
  return {max, sum, weighted, 0};
}

ARCHON_SIMD_CLONES void scale_row(float* row, int64_t width, float factor) {
  for (int64_t i = 0; i < width; ++i) row[i] *= factor;
}

}  // namespace archon::kernels
