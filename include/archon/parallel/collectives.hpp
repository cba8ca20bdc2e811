#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "archon/comm/communicator.hpp"
#include "archon/parallel/recompute.hpp"

/// Collectives for autograd. Each one's backward is its exact adjoint for the sum over ranks of
/// all ranks' losses: all_gather <-> reduce_scatter, all_to_all <-> the inverse all_to_all,
/// all_reduce(sum) <-> itself, broadcast <-> reduce to the root.
///
/// `comm` must outlive the backward pass. All ranks of it must run forward and backward alike.
namespace archon::differentiable {

/// [n, ...] of every rank to [sum of n, ...]. `rows`: rows per rank; empty = equal.
at::Tensor all_gather(const at::Tensor& x, const Communicator& comm,
                      const std::vector<int64_t>& rows = {});

/// [sum of n, ...] to this rank's [n, ...] block of the sum over ranks.
at::Tensor reduce_scatter(const at::Tensor& x, const Communicator& comm,
                          const std::vector<int64_t>& rows = {},
                          WhenRecomputed use = WhenRecomputed::compute);

/// Equal blocks of dim 0, or blocks of `output_rows` and `input_rows` (both or neither).
at::Tensor all_to_all(const at::Tensor& x, const Communicator& comm,
                      const std::vector<int64_t>& output_rows = {},
                      const std::vector<int64_t>& input_rows = {});

/// Sum over ranks.
at::Tensor all_reduce(const at::Tensor& x, const Communicator& comm);

/// The root's x on every rank; the other ranks' x give the shape only and get no gradient.
at::Tensor broadcast(const at::Tensor& x, int root, const Communicator& comm);

}  // namespace archon::differentiable
