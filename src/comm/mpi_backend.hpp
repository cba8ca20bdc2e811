#pragma once

#include "backend.hpp"

namespace archon {

class Transfer;

/// Host tensors over MPI. Large reductions are an all-to-all and a local sum, which beats MPI's own
/// by far (docs/performance.md) and rounds once.
class MpiBackend final : public Backend {
 public:
  MpiBackend(MPI_Comm comm, int rank, int size) : comm_(comm), rank_(rank), size_(size) {}

  Work all_reduce(const Operation& operation, at::Tensor flat, ReduceOp op) override;
  Work all_gather(const Operation& operation, at::Tensor output, at::Tensor input,
                  Blocks blocks) override;
  Work reduce_scatter(const Operation& operation, at::Tensor output, at::Tensor input,
                      Blocks blocks, bool even) override;
  Work all_to_all(const Operation& operation, at::Tensor output, Blocks output_blocks,
                  at::Tensor input, Blocks input_blocks, bool even) override;
  void exchange_others(const Operation& operation, at::Tensor output, at::Tensor input) override;
  Work broadcast(const Operation& operation, at::Tensor tensor, int root) override;
  Work barrier(const Operation& operation);

  void set_max_count(int64_t elements) { max_count_ = elements; }

 private:
  Work all_reduce_small(const Operation& operation, at::Tensor flat, ReduceOp op);

  MPI_Comm comm_;
  int rank_;
  int size_;
  int64_t max_count_ = INT32_MAX;
};

}  // namespace archon
