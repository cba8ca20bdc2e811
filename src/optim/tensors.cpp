#include "tensors.hpp"

#include <set>

#include "archon/base/error.hpp"

namespace archon::optim {
namespace {

bool is_flat_float(const at::Tensor& tensor) {
  return tensor.defined() && tensor.scalar_type() == at::kFloat && tensor.is_contiguous() &&
         tensor.device().is_cpu();
}

}  // namespace

void check(const std::vector<OptimizerTensor>& tensors) {
  std::set<std::string> names;
  for (const OptimizerTensor& tensor : tensors) {
    ARCHON_ENSURE(names.insert(tensor.name).second,
                  "the optimizer was given two tensors named \"{}\"; their states could not be "
                  "told apart",
                  tensor.name);
    ARCHON_ENSURE(is_flat_float(tensor.weight) && is_flat_float(tensor.grad) &&
                      tensor.weight.sizes() == tensor.grad.sizes(),
                  "weight and gradient of \"{}\" must be contiguous float32 host tensors of one "
                  "shape, since the optimizer steps them in one pass over memory",
                  tensor.name);
  }
}

}  // namespace archon::optim
