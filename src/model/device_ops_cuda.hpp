#pragma once

#include "archon/base/host_device.hpp"
#include "device_ops.hpp"

/// device_ops on a GPU, on its current stream: a kernel for each, which reads its operands once.
/// Operands are contiguous.
namespace archon::device_ops::cuda {

Normed rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);
NormGradients rms_norm_backward(const at::Tensor& y_grad, const at::Tensor& x,
                                const at::Tensor& inv_rms, const at::Tensor& weight);
at::Tensor swiglu(const at::Tensor& gate_up);
at::Tensor swiglu_backward(const at::Tensor& y_grad, const at::Tensor& gate_up);
Normed norm_rotary(const at::Tensor& qkv, const at::Tensor& query_norm, const at::Tensor& key_norm,
                   const at::Tensor& cos, const at::Tensor& sin, const kernels::HeadLayout& layout,
                   double eps);
NormRotaryGradients norm_rotary_backward(const at::Tensor& y_grad, const at::Tensor& qkv,
                                         const at::Tensor& inv_rms, const at::Tensor& query_norm,
                                         const at::Tensor& key_norm, const at::Tensor& cos,
                                         const at::Tensor& sin, const kernels::HeadLayout& layout);

}  // namespace archon::device_ops::cuda
