#include "kernels.hpp"

#include <algorithm>
#include <cmath>

#include "archon/base/simd.hpp"

// Compiled with -ffast-math (src/model/CMakeLists.txt), so that sums and expf vectorise.
// Templates hold the loops; the overloads at the end give them their instruction sets.

namespace archon::kernels {
namespace {

template <class T>
ARCHON_INLINE float to_float(T value) {
  return static_cast<float>(value);
}

template <class T>
ARCHON_INLINE void rms_norm_rows(T* y, float* inv_rms, const T* x, const T* weight, int64_t rows,
                                 int64_t width, float eps) {
  for (int64_t r = 0; r < rows; ++r, x += width, y += width) {
    float sum = 0;
    for (int64_t i = 0; i < width; ++i) sum += to_float(x[i]) * to_float(x[i]);
    const float inv = 1.0f / std::sqrt(sum / static_cast<float>(width) + eps);
    inv_rms[r] = inv;
    for (int64_t i = 0; i < width; ++i)
      y[i] = static_cast<T>(to_float(weight[i]) * (to_float(x[i]) * inv));
  }
}

// With x̂ = x / rms:  dx = (w·dy − x̂ · mean(w·dy·x̂)) / rms,  dw = Σ dy·x̂
template <class T>
ARCHON_INLINE void rms_norm_backward_rows(T* x_grad, float* weight_grad, const T* y_grad,
                                          const T* x, const float* inv_rms, const T* weight,
                                          int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r, x += width, x_grad += width, y_grad += width) {
    const float inv = inv_rms[r];
    float dot = 0;
    for (int64_t i = 0; i < width; ++i)
      dot += to_float(weight[i]) * to_float(y_grad[i]) * to_float(x[i]);
    const float mean = dot * inv / static_cast<float>(width);
    for (int64_t i = 0; i < width; ++i) {
      const float dy = to_float(y_grad[i]), normed = to_float(x[i]) * inv;
      weight_grad[i] += dy * normed;
      x_grad[i] = static_cast<T>((to_float(weight[i]) * dy - normed * mean) * inv);
    }
  }
}

// 1 / sigmoid(x). Fast arithmetic divides by it with a reciprocal and one step of Newton's, which
// would be NaN for an infinite exponential; exp(87) leaves nothing of 1 either.
ARCHON_INLINE float inverse_sigmoid(float x) { return 1.0f + std::exp(std::min(-x, 87.0f)); }

template <class T>
ARCHON_INLINE void swiglu_rows(T* y, const T* gate_up, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r, y += width, gate_up += 2 * width)
    for (int64_t i = 0; i < width; ++i) {
      const float gate = to_float(gate_up[i]), up = to_float(gate_up[width + i]);
      y[i] = static_cast<T>(gate / inverse_sigmoid(gate) * up);
    }
}

template <class T>
ARCHON_INLINE void swiglu_backward_rows(T* grad, const T* y_grad, const T* gate_up, int64_t rows,
                                        int64_t width) {
  for (int64_t r = 0; r < rows; ++r, y_grad += width, gate_up += 2 * width, grad += 2 * width) {
    // Too many rows for the compiler to check that none overlap.
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) {
      const float gate = to_float(gate_up[i]), up = to_float(gate_up[width + i]);
      const float dy = to_float(y_grad[i]);
      const float sigmoid = 1.0f / inverse_sigmoid(gate);
      grad[i] = static_cast<T>(dy * up * sigmoid * (1.0f + gate * (1.0f - sigmoid)));
      grad[width + i] = static_cast<T>(dy * gate * sigmoid);
    }
  }
}

// y = R(norm(x)) for one head, R turning (x[i], x[i + half]) by the angle of `cos`, `sin`.
template <class T>
ARCHON_INLINE void rotate_head(T* y, const T* x, const float* scale, const float* cos,
                               const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = to_float(x[i]) * scale[i], b = to_float(x[i + half]) * scale[i + half];
    y[i] = static_cast<T>(a * cos[i] - b * sin[i]);
    y[i + half] = static_cast<T>(b * cos[i] + a * sin[i]);
  }
}

template <class T>
ARCHON_INLINE void norm_rotary_tokens(T* y, float* inv_rms, const T* x, const T* query_norm,
                                      const T* key_norm, const float* cos, const float* sin,
                                      int64_t tokens, HeadLayout layout, float eps) {
  const int64_t d = layout.head_dim, half = d / 2, turned = layout.heads + layout.kv_heads;
  float scale[kMaxHeadDim];
  for (int64_t t = 0; t < tokens; ++t, cos += half, sin += half) {
    for (int64_t h = 0; h < turned; ++h, x += d, y += d, ++inv_rms) {
      const T* weight = h < layout.heads ? query_norm : key_norm;
      if (weight != nullptr) {
        float sum = 0;
        for (int64_t i = 0; i < d; ++i) sum += to_float(x[i]) * to_float(x[i]);
        const float inv = 1.0f / std::sqrt(sum / static_cast<float>(d) + eps);
        *inv_rms = inv;
        for (int64_t i = 0; i < d; ++i) scale[i] = to_float(weight[i]) * inv;
      } else {
        for (int64_t i = 0; i < d; ++i) scale[i] = 1.0f;
      }
      rotate_head(y, x, scale, cos, sin, half);
    }
    std::copy_n(x, layout.kv_heads * d, y);
    x += layout.kv_heads * d;
    y += layout.kv_heads * d;
  }
}

template <class T>
ARCHON_INLINE void norm_rotary_backward_tokens(T* x_grad, float* query_norm_grad,
                                               float* key_norm_grad, const T* y_grad, const T* x,
                                               const float* inv_rms, const T* query_norm,
                                               const T* key_norm, const float* cos,
                                               const float* sin, int64_t tokens,
                                               HeadLayout layout) {
  const int64_t d = layout.head_dim, half = d / 2, turned = layout.heads + layout.kv_heads;
  float dy[kMaxHeadDim];  // gradient before the rotation
  for (int64_t t = 0; t < tokens; ++t, cos += half, sin += half) {
    for (int64_t h = 0; h < turned; ++h, x += d, x_grad += d, y_grad += d, ++inv_rms) {
      for (int64_t i = 0; i < half; ++i) {
        const float a = to_float(y_grad[i]), b = to_float(y_grad[i + half]);
        dy[i] = a * cos[i] + b * sin[i];
        dy[i + half] = b * cos[i] - a * sin[i];
      }
      const T* weight = h < layout.heads ? query_norm : key_norm;
      if (weight == nullptr) {
        for (int64_t i = 0; i < d; ++i) x_grad[i] = static_cast<T>(dy[i]);
        continue;
      }
      float* weight_grad = h < layout.heads ? query_norm_grad : key_norm_grad;
      const float inv = *inv_rms;
      float dot = 0;
      for (int64_t i = 0; i < d; ++i) dot += to_float(weight[i]) * dy[i] * to_float(x[i]);
      const float mean = dot * inv / static_cast<float>(d);
      for (int64_t i = 0; i < d; ++i) {
        const float normed = to_float(x[i]) * inv;
        weight_grad[i] += dy[i] * normed;
        x_grad[i] = static_cast<T>((to_float(weight[i]) * dy[i] - normed * mean) * inv);
      }
    }
    std::copy_n(y_grad, layout.kv_heads * d, x_grad);
    x += layout.kv_heads * d;
    x_grad += layout.kv_heads * d;
    y_grad += layout.kv_heads * d;
  }
}

template <class T>
ARCHON_INLINE void sum_parts_row(T* y, const float* x, int64_t stride, int64_t parts,
                                 int64_t width) {
  for (int64_t i = 0; i < width; ++i) {
    float sum = x[i];
    for (int64_t part = 1; part < parts; ++part) sum += x[part * stride + i];
    y[i] = static_cast<T>(sum);
  }
}

}  // namespace

#define ARCHON_DEFINE_KERNELS(T)                                                               \
  ARCHON_SIMD_CLONES void rms_norm(T* y, float* inv_rms, const T* x, const T* weight,          \
                                   int64_t rows, int64_t width, float eps) {                   \
    rms_norm_rows(y, inv_rms, x, weight, rows, width, eps);                                    \
  }                                                                                            \
  ARCHON_SIMD_CLONES void rms_norm_backward(T* x_grad, float* weight_grad, const T* y_grad,    \
                                            const T* x, const float* inv_rms, const T* weight, \
                                            int64_t rows, int64_t width) {                     \
    rms_norm_backward_rows(x_grad, weight_grad, y_grad, x, inv_rms, weight, rows, width);      \
  }                                                                                            \
  ARCHON_SIMD_CLONES void swiglu(T* y, const T* gate_up, int64_t rows, int64_t width) {        \
    swiglu_rows(y, gate_up, rows, width);                                                      \
  }                                                                                            \
  ARCHON_SIMD_CLONES void swiglu_backward(T* gate_up_grad, const T* y_grad, const T* gate_up,  \
                                          int64_t rows, int64_t width) {                       \
    swiglu_backward_rows(gate_up_grad, y_grad, gate_up, rows, width);                          \
  }                                                                                            \
  ARCHON_SIMD_CLONES void norm_rotary(T* y, float* inv_rms, const T* x, const T* query_norm,   \
                                      const T* key_norm, const float* cos, const float* sin,   \
                                      int64_t tokens, HeadLayout layout, float eps) {          \
    norm_rotary_tokens(y, inv_rms, x, query_norm, key_norm, cos, sin, tokens, layout, eps);    \
  }                                                                                            \
  ARCHON_SIMD_CLONES void norm_rotary_backward(                                                \
      T* x_grad, float* query_norm_grad, float* key_norm_grad, const T* y_grad, const T* x,    \
      const float* inv_rms, const T* query_norm, const T* key_norm, const float* cos,          \
      const float* sin, int64_t tokens, HeadLayout layout) {                                   \
    norm_rotary_backward_tokens(x_grad, query_norm_grad, key_norm_grad, y_grad, x, inv_rms,    \
                                query_norm, key_norm, cos, sin, tokens, layout);               \
  }                                                                                            \
  ARCHON_SIMD_CLONES void sum_parts(T* y, const float* x, int64_t stride, int64_t parts,       \
                                    int64_t width) {                                           \
    sum_parts_row(y, x, stride, parts, width);                                                 \
  }

ARCHON_DEFINE_KERNELS(float)
ARCHON_DEFINE_KERNELS(c10::BFloat16)

}  // namespace archon::kernels
