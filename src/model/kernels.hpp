#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

#include "archon/base/host_device.hpp"

/// Row kernels behind model/ops: plain loops that the compiler vectorises for several instruction
/// sets. T is float or BFloat16; arithmetic is float. Callers share rows out over threads.
namespace archon::kernels {

/// The widest heads that norm_rotary takes, here and on a GPU.
inline constexpr int64_t kMaxHeadDim = 512;

/// Rows of q, k, v heads of one token, and what is applied to them.
struct HeadLayout {
  int64_t heads, kv_heads, head_dim;
  ARCHON_HOST_DEVICE int64_t total() const { return heads + 2 * kv_heads; }
};

#define ARCHON_DECLARE_KERNELS(T)                                                              \
  void rms_norm(T* y, float* inv_rms, const T* x, const T* weight, int64_t rows, int64_t width, \
                float eps);                                                                    \
  /* weight_grad [width] is added to */                                                        \
  void rms_norm_backward(T* x_grad, float* weight_grad, const T* y_grad, const T* x,           \
                         const float* inv_rms, const T* weight, int64_t rows, int64_t width);  \
  void swiglu(T* y, const T* gate_up, int64_t rows, int64_t width);                            \
  void swiglu_backward(T* gate_up_grad, const T* y_grad, const T* gate_up, int64_t rows,       \
                       int64_t width);                                                         \
  /* norm weights may be null; inv_rms [tokens, heads + kv_heads] */                           \
  void norm_rotary(T* y, float* inv_rms, const T* x, const T* query_norm, const T* key_norm,   \
                   const float* cos, const float* sin, int64_t tokens, HeadLayout layout,      \
                   float eps);                                                                 \
  void norm_rotary_backward(T* x_grad, float* query_norm_grad, float* key_norm_grad,           \
                            const T* y_grad, const T* x, const float* inv_rms,                 \
                            const T* query_norm, const T* key_norm, const float* cos,          \
                            const float* sin, int64_t tokens, HeadLayout layout);              \
  /* y [width] = sum of `parts` rows that lie `stride` apart */                                \
  void sum_parts(T* y, const float* x, int64_t stride, int64_t parts, int64_t width);

ARCHON_DECLARE_KERNELS(float)
ARCHON_DECLARE_KERNELS(c10::BFloat16)
#undef ARCHON_DECLARE_KERNELS

}  // namespace archon::kernels
