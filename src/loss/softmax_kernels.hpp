#pragma once

#include <cstdint>

/// Row kernels of the chunked softmax; float32, vectorised for several instruction sets.
namespace archon::kernels {

/// What one rank knows of a token's distribution: over its own vocabulary rows only.
struct SoftmaxStats {
  float max;      ///< largest logit (-inf when the rank has no rows)
  float sum;      ///< Σ exp(logit − max)
  float weighted; ///< Σ exp(logit − max) · (logit − max)
  float label;    ///< the label's logit; 0 where another rank holds it
};

/// Replaces logits [width] by exp(logit − max) and returns their statistics (label left 0).
SoftmaxStats exponentiate(float* logits, int64_t width);

/// Multiplies [width] by factor.
void scale_row(float* row, int64_t width, float factor);

}  // namespace archon::kernels
