#include "archon/optim/optimizer.hpp"

#include <set>
#include <utility>

#include "archon/base/error.hpp"

namespace archon {
namespace {

bool is_flat_float(const at::Tensor& tensor) {
  return tensor.defined() && tensor.scalar_type() == at::kFloat && tensor.is_contiguous();
}

bool fits(const at::Tensor& gradient, const at::Tensor& weight) {
  return gradient.defined() && gradient.is_contiguous() &&
         (gradient.scalar_type() == at::kFloat || gradient.scalar_type() == at::kBFloat16) &&
         gradient.numel() == weight.numel() && gradient.device() == weight.device();
}

}  // namespace

Optimizer::Optimizer(std::vector<OptimizerTensor> tensors) : tensors_(std::move(tensors)) {
  std::set<std::string> names;
  for (const OptimizerTensor& tensor : tensors_) {
    ARCHON_ENSURE(names.insert(tensor.name).second,
                  "the optimizer was given two tensors named \"{}\"; their states could not be "
                  "told apart",
                  tensor.name);
    ARCHON_ENSURE(is_flat_float(tensor.weight),
                  "the weight \"{}\" must be a contiguous float32 tensor, since the optimizer steps "
                  "it in one pass over memory",
                  tensor.name);
  }
}

void Optimizer::step(const std::vector<at::Tensor>& gradients, double lr, double grad_scale) {
  ARCHON_ENSURE(gradients.size() == tensors_.size(),
                "the optimizer steps {} tensors and was given {} gradients", tensors_.size(),
                gradients.size());
  for (std::size_t i = 0; i < gradients.size(); ++i)
    ARCHON_ENSURE(fits(gradients[i], tensors_[i].weight),
                  "the gradient of \"{}\" must be a contiguous float32 or bfloat16 tensor of the "
                  "weight's size, on its device",
                  tensors_[i].name);
  if (before_step_) std::exchange(before_step_, nullptr)();
  ++steps_;
  update(gradients, lr, grad_scale);
}

}  // namespace archon
