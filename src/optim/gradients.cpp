#include "archon/optim/gradients.hpp"

#include <cmath>

namespace archon {
namespace {

double sum_of_squares(const at::Tensor& x) {
  const float* data = x.const_data_ptr<float>();
  double sum = 0;
  for (int64_t i = 0; i < x.numel(); ++i) sum += double{data[i]} * data[i];
  return sum;
}

}  // namespace

void reduce_gradients(const std::vector<Parameter*>& parameters, const Mesh& mesh) {
  for (const Parameter* parameter : parameters) {
    const bool replicated = parameter->placement() == TpPlacement::replicated;
    (replicated ? mesh.world() : mesh.shard_group()).all_reduce(parameter->grad());
  }
}

double gradient_norm(const std::vector<Parameter*>& parameters, const Mesh& mesh) {
  double sharded = 0, replicated = 0;
  for (const Parameter* parameter : parameters) {
    const double sum = sum_of_squares(parameter->grad());
    (parameter->placement() == TpPlacement::replicated ? replicated : sharded) += sum;
  }
  return std::sqrt(mesh.tp().all_reduce(sharded) + replicated);
}

}  // namespace archon
