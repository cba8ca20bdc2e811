#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

/// How the losses of tokens become one: Σ weight[t] · loss[t], with weights that know the whole
/// global batch, so that neither its split into micro-batches nor the mesh matters.
namespace archon {

enum class Aggregate {
  token_mean,     ///< mean over the targets
  sequence_mean,  ///< mean over sequences of the mean over their targets (GRPO: Shao et al. 2024,
                  ///< arXiv:2402.03300)
  sequence_sum    ///< mean over sequences of the sum over their targets, divided by a constant
                  ///< (Dr.GRPO: Liu et al. 2025, arXiv:2503.20783)
};

/// What is averaged over.
struct BatchCounts {
  int64_t targets = 0;
  int64_t sequences = 0;  ///< with at least one target

  BatchCounts& operator+=(const BatchCounts& other);
};

/// Of one stream; add up over micro-batches and dp ranks.
BatchCounts count_batch(const at::Tensor& mask, const std::vector<int64_t>& cu_seqlens);

/// float64 [T], 0 where mask (bool [T]) is false. `global` counts the global batch.
/// `length_divisor` is for sequence_sum: a constant, in Dr.GRPO the generation budget in tokens.
at::Tensor token_weights(const at::Tensor& mask, const std::vector<int64_t>& cu_seqlens,
                         Aggregate aggregate, const BatchCounts& global,
                         double length_divisor = 1.0);

}  // namespace archon
