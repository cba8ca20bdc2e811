#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

#include "softmax_math.hpp"

/// Row kernels of the chunked softmax, vectorised for several instruction sets. T is float or
/// BFloat16; arithmetic is float.
namespace archon::kernels {

#define ARCHON_DECLARE_KERNELS(T)                                                               \
  /* Statistics of scale · logits [width] (label left 0). */                                   \
  SoftmaxStats softmax_stats(const T* logits, int64_t width, float scale);                      \
  /* Replaces logits [width] by (factor + slope · s) · exp(s), s = scale · (logit − max). */ \
  void exponentiate(T* logits, int64_t width, float scale, float max, float factor, float slope);

ARCHON_DECLARE_KERNELS(float)
ARCHON_DECLARE_KERNELS(c10::BFloat16)
#undef ARCHON_DECLARE_KERNELS

}  // namespace archon::kernels
