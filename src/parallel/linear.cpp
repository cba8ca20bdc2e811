#include "archon/parallel/linear.hpp"

#include <ATen/ops/sum.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "archon/parallel/matmul.hpp"

namespace archon {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Linear : torch::autograd::Function<Linear> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, WhenRecomputed use) {
    context->save_for_backward({x, weight});
    context->saved_data["bias"] = bias.has_value();
    return recomputation::result(use, {x.size(0), weight.size(0)}, x.options(), [&] {
      at::Tensor y = matmul_nt(x, weight);
      if (bias) y.add_(*bias);
      return y;
    });
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const at::Tensor grad = grads[0].contiguous();
    at::Tensor grad_x, grad_weight, grad_bias;
    if (context->needs_input_grad(0)) grad_x = matmul_nt(grad, weight.t());
    if (context->needs_input_grad(1)) grad_weight = matmul_nt(grad.t(), x.t());
    if (context->saved_data["bias"].toBool()) grad_bias = grad.sum(0);
    return {grad_x, grad_weight, grad_bias, at::Tensor()};
  }
};

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  WhenRecomputed use) {
  // Autograd takes an absent tensor as nullopt only.
  return Linear::apply(x, weight, bias.defined() ? std::optional(bias) : std::nullopt, use);
}

}  // namespace archon
