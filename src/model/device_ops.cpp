#include "device_ops.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sigmoid.h>

#include "device_ops_cuda.hpp"

namespace archon::device_ops {
namespace {

at::Tensor wide(const at::Tensor& x) { return x.to(at::kFloat); }

at::Tensor inverse_rms(const at::Tensor& x, double eps) {
  return (x.square().mean(-1, /*keepdim=*/true) + eps).rsqrt();
}

/// Gradients of weight · x · inv_rms, all float32; weight's summed over all rows.
NormGradients norm_backward(const at::Tensor& y_grad, const at::Tensor& x,
                            const at::Tensor& inv_rms, const at::Tensor& weight) {
  const at::Tensor normed = x * inv_rms, weighted = y_grad * weight;
  const at::Tensor mean = (weighted * normed).mean(-1, /*keepdim=*/true);
  return {(weighted - normed * mean) * inv_rms,
          (y_grad * normed).reshape({-1, weight.size(0)}).sum(0)};
}

/// Turns (x[i], x[i + half]) of each head by the angle of cos, sin [tokens, half].
at::Tensor turn(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const int64_t half = x.size(2) / 2;
  const at::Tensor a = x.narrow(2, 0, half), b = x.narrow(2, half, half);
  const at::Tensor c = cos.unsqueeze(1), s = sin.unsqueeze(1);
  return at::cat({a * c - b * s, b * c + a * s}, 2);
}

/// Query heads, or key heads.
struct Heads {
  int64_t begin, count;
  at::Tensor of(const at::Tensor& x) const { return x.narrow(1, begin, count); }
};
Heads queries(const kernels::HeadLayout& layout) { return {0, layout.heads}; }
Heads keys(const kernels::HeadLayout& layout) { return {layout.heads, layout.kv_heads}; }

}  // namespace

Normed rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::rms_norm(x, weight, eps);
  const at::Tensor inv_rms = inverse_rms(wide(x), eps);
  return {(wide(weight) * (wide(x) * inv_rms)).to(x.scalar_type()), inv_rms.squeeze(-1)};
}

NormGradients rms_norm_backward(const at::Tensor& y_grad, const at::Tensor& x,
                                const at::Tensor& inv_rms, const at::Tensor& weight) {
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::rms_norm_backward(y_grad, x, inv_rms, weight);
  NormGradients grads = norm_backward(wide(y_grad), wide(x), inv_rms.unsqueeze(-1), wide(weight));
  grads.x = grads.x.to(x.scalar_type());
  return grads;
}

at::Tensor swiglu(const at::Tensor& gate_up) {
  if constexpr (kCudaBuild)
    if (gate_up.is_cuda()) return cuda::swiglu(gate_up);
  const int64_t width = gate_up.size(1) / 2;
  const at::Tensor gate = wide(gate_up.narrow(1, 0, width));
  return (gate * gate.sigmoid() * wide(gate_up.narrow(1, width, width))).to(gate_up.scalar_type());
}

at::Tensor swiglu_backward(const at::Tensor& y_grad, const at::Tensor& gate_up) {
  if constexpr (kCudaBuild)
    if (gate_up.is_cuda()) return cuda::swiglu_backward(y_grad, gate_up);
  const int64_t width = gate_up.size(1) / 2;
  const at::Tensor gate = wide(gate_up.narrow(1, 0, width)), sigmoid = gate.sigmoid();
  const at::Tensor up = wide(gate_up.narrow(1, width, width)), dy = wide(y_grad);
  at::Tensor grad = at::empty_like(gate_up);
  grad.narrow(1, 0, width).copy_(dy * up * sigmoid * (1.0 + gate * (1.0 - sigmoid)));
  grad.narrow(1, width, width).copy_(dy * gate * sigmoid);
  return grad;
}

Normed norm_rotary(const at::Tensor& qkv, const at::Tensor& query_norm, const at::Tensor& key_norm,
                   const at::Tensor& cos, const at::Tensor& sin, const kernels::HeadLayout& layout,
                   double eps) {
  if constexpr (kCudaBuild)
    if (qkv.is_cuda()) return cuda::norm_rotary(qkv, query_norm, key_norm, cos, sin, layout, eps);
  Normed result{qkv.clone(), {}};
  std::vector<at::Tensor> inv_rms;
  const auto apply = [&](const Heads& heads, const at::Tensor& weight) {
    at::Tensor x = wide(heads.of(qkv));
    if (weight.defined()) {
      inv_rms.push_back(inverse_rms(x, eps));
      x = x * (wide(weight) * inv_rms.back());
    }
    heads.of(result.y).copy_(turn(x, cos, sin));
  };
  apply(queries(layout), query_norm);
  apply(keys(layout), key_norm);
  if (!inv_rms.empty()) result.inv_rms = at::cat(inv_rms, 1).squeeze(-1);
  return result;
}

NormRotaryGradients norm_rotary_backward(const at::Tensor& y_grad, const at::Tensor& qkv,
                                         const at::Tensor& inv_rms, const at::Tensor& query_norm,
                                         const at::Tensor& key_norm, const at::Tensor& cos,
                                         const at::Tensor& sin, const kernels::HeadLayout& layout) {
  if constexpr (kCudaBuild)
    if (y_grad.is_cuda())
      return cuda::norm_rotary_backward(y_grad, qkv, inv_rms, query_norm, key_norm, cos, sin,
                                        layout);
  NormRotaryGradients grads{y_grad.clone(), {}, {}};
  const auto apply = [&](const Heads& heads, const at::Tensor& weight, at::Tensor& weight_grad) {
    at::Tensor grad = turn(wide(heads.of(y_grad)), cos, -sin);
    if (weight.defined()) {
      NormGradients both =
          norm_backward(grad, wide(heads.of(qkv)), heads.of(inv_rms).unsqueeze(-1), wide(weight));
      grad = both.x;
      weight_grad = both.weight;
    }
    heads.of(grads.qkv).copy_(grad);
  };
  apply(queries(layout), query_norm, grads.query_norm);
  apply(keys(layout), key_norm, grads.key_norm);
  return grads;
}

}  // namespace archon::device_ops
