#include "archon/loss/aggregate.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>

#include <algorithm>

#include "archon/base/error.hpp"
#include "sequence_sums.hpp"

namespace archon {

BatchCounts& BatchCounts::operator+=(const BatchCounts& other) {
  targets += other.targets;
  sequences += other.sequences;
  return *this;
}

BatchCounts count_batch(const at::Tensor& mask, const std::vector<int64_t>& cu_seqlens) {
  const at::Tensor targets = SequenceSums(cu_seqlens, mask.size(0)).sum(mask.to(at::kDouble));
  return {mask.sum().item<int64_t>(), targets.gt(0).sum().item<int64_t>()};
}

at::Tensor token_weights(const at::Tensor& mask, const std::vector<int64_t>& cu_seqlens,
                         Aggregate aggregate, const BatchCounts& global, double length_divisor) {
  // A global batch without targets has weights of 0 alone, whatever they are divided by.
  const auto targets = static_cast<double>(std::max<int64_t>(global.targets, 1));
  const auto sequences = static_cast<double>(std::max<int64_t>(global.sequences, 1));
  const at::Tensor present = mask.to(at::kDouble);
  switch (aggregate) {
    case Aggregate::token_mean:
      return present / targets;
    case Aggregate::sequence_mean: {
      const SequenceSums sums(cu_seqlens, mask.size(0));
      return present / (sequences * sums.spread(sums.sum(present).clamp_min(1.0)));
    }
    case Aggregate::sequence_sum:
      ARCHON_VALIDATE(
          length_divisor > 0,
          "the length that sums over sequences are divided by is {}, which is not above "
          "0; give the generation budget in tokens, or 1",
          length_divisor);
      return present / (sequences * length_divisor);
  }
  throw_runtime_failure("no such aggregation");
}

}  // namespace archon
