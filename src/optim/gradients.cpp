#include "archon/optim/gradients.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "archon/base/simd.hpp"

namespace archon {
namespace {

// Blocks of fixed size, their sums added in order: the bits do not depend on the threads.
constexpr int64_t kBlock = 16384;

ARCHON_SIMD_CLONES double sum_of_squares(const float* data, int64_t elements) {
  double sum = 0;
  for (int64_t i = 0; i < elements; ++i) sum += double{data[i]} * double{data[i]};
  return sum;
}

double sum_of_squares(const at::Tensor& x) {
  const float* data = x.const_data_ptr<float>();
  const int64_t elements = x.numel();
  std::vector<double> sums((elements + kBlock - 1) / kBlock);
  at::parallel_for(0, static_cast<int64_t>(sums.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      sums[i] = sum_of_squares(data + i * kBlock, std::min(kBlock, elements - i * kBlock));
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
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
