#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace archon {

/// Sums over the sequences of a packed stream [T]; what follows the last sequence counts as one
/// more.
class SequenceSums {
 public:
  SequenceSums(const std::vector<int64_t>& cu_seqlens, int64_t tokens);

  /// float64 [T] to [N+1]; differentiable.
  at::Tensor sum(const at::Tensor& x) const;
  /// [N+1] to [T]: each sequence's value at all of its tokens; differentiable.
  at::Tensor spread(const at::Tensor& x) const;

 private:
  int64_t bins_;        // N+1
  at::Tensor numbers_;  // int64 [T], the number of each token's sequence
};

}  // namespace archon
