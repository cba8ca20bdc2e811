#pragma once

#include <ATen/core/Tensor.h>

#include "archon/comm/communicator.hpp"
#include "archon/parallel/recompute.hpp"

/// Tensor parallelism with sequence parallelism (Shoeybi et al. 2019, arXiv:1909.08053;
/// Korthikanti et al. 2022, arXiv:2205.05198): between blocks a tp rank holds 1/tp of its tokens,
/// inside them all of its tokens and 1/tp of the features. `tp` must outlive the backward pass.
namespace archon {

/// x [tokens/tp, in] of every rank, times this rank's rows of the weight [out/tp, in]:
/// [tokens, out/tp].
at::Tensor column_parallel_linear(const at::Tensor& x, const at::Tensor& weight,
                                  const at::Tensor& bias, const Communicator& tp,
                                  WhenRecomputed use = WhenRecomputed::compute);

/// x [tokens, in/tp] times this rank's columns of the weight [out, in/tp], summed over tp:
/// [tokens/tp, out].
at::Tensor row_parallel_linear(const at::Tensor& x, const at::Tensor& weight,
                               const Communicator& tp,
                               WhenRecomputed use = WhenRecomputed::compute);

/// Looks up tokens [tokens] in a table of which this rank holds rows [first_row, first_row +
/// rows): [tokens/tp, hidden].
at::Tensor vocab_parallel_embedding(const at::Tensor& tokens, const at::Tensor& table,
                                    int64_t first_row, const Communicator& tp);

}  // namespace archon
