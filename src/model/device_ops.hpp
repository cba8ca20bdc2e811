#pragma once

#include <ATen/core/Tensor.h>

#include "kernels.hpp"

/// What the row kernels of kernels.hpp compute, for tensors that are not in host memory: in CUDA
/// kernels (device_ops_cuda.cu) on a GPU, in LibTorch's operations elsewhere. Types and roundings are
/// the same: float32 inside, rounded once.
namespace archon::device_ops {

struct Normed {
  at::Tensor y, inv_rms;  ///< inv_rms float32, one for each row
};

/// x [..., width], weight [width]
Normed rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

struct NormGradients {
  at::Tensor x, weight;  ///< weight's: float32
};
NormGradients rms_norm_backward(const at::Tensor& y_grad, const at::Tensor& x,
                                const at::Tensor& inv_rms, const at::Tensor& weight);

at::Tensor swiglu(const at::Tensor& gate_up);
at::Tensor swiglu_backward(const at::Tensor& y_grad, const at::Tensor& gate_up);

/// inv_rms [tokens, heads + kv_heads], undefined without norms.
Normed norm_rotary(const at::Tensor& qkv, const at::Tensor& query_norm, const at::Tensor& key_norm,
                   const at::Tensor& cos, const at::Tensor& sin, const kernels::HeadLayout& layout,
                   double eps);

struct NormRotaryGradients {
  at::Tensor qkv, query_norm, key_norm;  ///< those of the norms float32, or undefined
};
/// qkv may be undefined without norms.
NormRotaryGradients norm_rotary_backward(const at::Tensor& y_grad, const at::Tensor& qkv,
                                         const at::Tensor& inv_rms, const at::Tensor& query_norm,
                                         const at::Tensor& key_norm, const at::Tensor& cos,
                                         const at::Tensor& sin, const kernels::HeadLayout& layout);

}  // namespace archon::device_ops
