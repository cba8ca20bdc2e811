#include "archon/optim/gradients.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/square.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "archon/base/simd.hpp"
#include "archon/parallel/dispatch.hpp"

namespace archon {
namespace {

// Blocks of fixed size, their sums added in order: the bits do not depend on the threads.
constexpr int64_t kBlock = 16384;

ARCHON_SIMD_CLONES double sum_of_squares(const float* data, int64_t elements) {
  double sum = 0;
  for (int64_t i = 0; i < elements; ++i) sum += double{data[i]} * double{data[i]};
  return sum;
}

ARCHON_SIMD_CLONES double sum_of_squares(const c10::BFloat16* data, int64_t elements) {
  double sum = 0;
  for (int64_t i = 0; i < elements; ++i) {
    const auto x = static_cast<float>(data[i]);
    sum += double{x} * double{x};
  }
  return sum;
}

double sum_of_squares(const at::Tensor& x) {
  const int64_t elements = x.numel();
  std::vector<double> sums((elements + kBlock - 1) / kBlock);
  dispatch(x, [&]<class T>(T*) {
    const T* data = x.const_data_ptr<T>();
    at::parallel_for(0, static_cast<int64_t>(sums.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        sums[i] = sum_of_squares(data + i * kBlock, std::min(kBlock, elements - i * kBlock));
    });
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

double sum_of_squares(const std::vector<at::Tensor>& tensors) {
  double sum = 0;
  std::vector<at::Tensor> norms;  // of what is on a device: the host waits once for all of them
  for (const at::Tensor& x : tensors)
    if (x.is_cpu())
      sum += sum_of_squares(x);
    else
      norms.push_back(at::linalg_vector_norm(x, 2.0, {}, false, at::kDouble));
  return norms.empty() ? sum : sum + at::stack(norms).square().sum().item<double>();
}

std::vector<Parameter*> all_parameters(const std::vector<ParameterUnit*>& units) {
  std::vector<Parameter*> all;
  for (const ParameterUnit* unit : units)
    all.insert(all.end(), unit->parameters().begin(), unit->parameters().end());
  return all;
}

/// One message for all of them, since they are small.
void reduce_replicated(const std::vector<Parameter*>& parameters, const Communicator& world) {
  std::vector<at::Tensor> gradients;
  for (Parameter* parameter : parameters)
    if (parameter->placement() == TpPlacement::replicated)
      gradients.push_back(parameter->whole_grad().view({-1}));
  if (world.size() == 1 || gradients.empty()) return;
  const at::Tensor flat = at::cat(gradients);
  world.all_reduce(flat);
  int64_t begin = 0;
  for (const at::Tensor& gradient : gradients) {
    at::Tensor(gradient).copy_(flat.narrow(0, begin, gradient.numel()));
    begin += gradient.numel();
  }
}

}  // namespace

void reduce_gradients(const std::vector<ParameterUnit*>& units, Sharding& sharding,
                      const Mesh& mesh) {
  sharding.finish_reduction();
  const std::vector<Parameter*> parameters = all_parameters(units);
  reduce_replicated(parameters, mesh.world());
  if (sharding.sharded()) return;
  for (Parameter* parameter : parameters)
    if (parameter->placement() != TpPlacement::replicated)
      mesh.shard_group().all_reduce(parameter->whole_grad());
}

double gradient_norm(const std::vector<ParameterUnit*>& units, const Mesh& mesh) {
  std::vector<at::Tensor> counted;
  for (const Parameter* parameter : all_parameters(units)) {
    const bool another_tp_rank_counts =
        parameter->placement() == TpPlacement::replicated && mesh.tp_rank() != 0;
    const bool another_shard_rank_counts =
        parameter->place().size == 1 && mesh.shard_group().rank() != 0;
    if (!another_tp_rank_counts && !another_shard_rank_counts) counted.push_back(parameter->grad());
  }
  return std::sqrt(mesh.world().all_reduce(sum_of_squares(counted)));
}

}  // namespace archon
