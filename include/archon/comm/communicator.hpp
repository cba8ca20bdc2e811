#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "archon/comm/mpi.hpp"
#include "archon/comm/reduce_op.hpp"
#include "archon/comm/work.hpp"

namespace archon {

class Backend;
class GpuBackend;
class GpuRuntime;
class MpiBackend;
struct Operation;

/// What one rank sent. A message is one block sent from this rank to one other rank; blocks that
/// stay on the rank are not counted. This is what the algorithm needs, not what MPI does inside.
///
/// On n ranks, at each rank:
///   all_to_all, exchange_others   n-1 messages: the blocks of the others
///   all_gather                    n-1 messages of the own block (as if each went directly)
///   reduce_scatter                n-1 messages: the blocks of the others, in the input's type
///   all_reduce                    up to 4 KiB n-1 messages of the whole tensor; above, a
///                                 reduce_scatter and an all_gather of balanced blocks
///   broadcast                     root: n-1 messages of the whole tensor; others: none
///   barrier                       none
/// Groups of one rank send nothing.
struct Traffic {
  int64_t bytes = 0;
  int64_t messages = 0;

  Traffic& operator+=(const Traffic& other);
  friend Traffic operator-(const Traffic& a, const Traffic& b) {
    return {a.bytes - b.bytes, a.messages - b.messages};
  }
  friend bool operator==(const Traffic&, const Traffic&) = default;
};

/// A group of ranks that exchange tensors: host tensors over MPI, and those of a GPU over NCCL once
/// `use_gpu` was called.
///
/// All tensors are contiguous; types float32, float64, bfloat16, float16, the integers and bool
/// (copied, not reduced). Blocks are counted along dim 0. Sums of bfloat16 and float16 accumulate
/// in float32 and round once. A reduction's bits depend on the inputs and the group alone and are
/// the same on every rank: over MPI every one adds in rank order, over NCCL in the order of its
/// rings and trees. A group of one rank communicates nothing. Counts above 2^31-1 elements are
/// split.
///
/// Every call is collective over the group. The `_async` forms return a Work; the tensors must
/// not be touched until it was waited for, and all ranks must wait for their Works in the order
/// in which they started them. On a GPU "waited for" and "returns" concern the stream that
/// computes: the host goes on.
class Communicator {
 public:
  /// Takes over `comm`; `name` is the axis in messages ("dp", "tp", ...).
  Communicator(MpiComm comm, std::string name);
  Communicator(Communicator&&) noexcept;
  Communicator& operator=(Communicator&&) noexcept;
  ~Communicator();

  /// A group of this process alone; needs no MPI.
  static Communicator self();
  /// Rank `rank` of a group of `size` that exists on paper: it tells its shape, for planning, and
  /// cannot communicate.
  static Communicator shape_only(int rank, int size, std::string name);

  /// From here on tensors that `runtime` owns are exchanged too. Collective over the group; a group
  /// of one rank does nothing. `runtime` must outlive the group.
  void use_gpu(GpuRuntime& runtime);
  /// As use_gpu, with the NCCL communicator split off that of `whole`, which shares its resources.
  /// Collective over `whole`, of which every rank is in one such group.
  void use_gpu_of(const Communicator& whole);

  int rank() const { return rank_; }
  int size() const { return size_; }
  std::string name() const { return name_; }
  MPI_Comm mpi() const { return comm_.get(); }
  /// What this rank sent over this group so far; an asynchronous operation counts when it starts.
  const Traffic& traffic() const { return sent_; }

  /// Up to so many bytes an all_reduce is one all_gather of the whole and a local sum; above, a
  /// reduce_scatter and an all_gather of the sums.
  static constexpr int64_t kSmallReduceBytes = 4096;

  /// In place, any shape.
  void all_reduce(at::Tensor tensor, ReduceOp op = ReduceOp::sum) const;
  [[nodiscard]] Work all_reduce_async(at::Tensor tensor, ReduceOp op = ReduceOp::sum) const;

  /// output = inputs of all ranks, concatenated along dim 0. `rows` gives each rank's number of
  /// rows; empty means that all are equal. Inputs may lie in their places of the outputs, then on
  /// all ranks.
  void all_gather(at::Tensor output, const at::Tensor& input,
                  const std::vector<int64_t>& rows = {}) const;
  [[nodiscard]] Work all_gather_async(at::Tensor output, const at::Tensor& input,
                                      const std::vector<int64_t>& rows = {}) const;

  /// output = this rank's block of rows of the sum of all inputs. `rows` as in all_gather. The
  /// output may be float32 where the input is bfloat16 or float16: then nothing is rounded.
  void reduce_scatter(at::Tensor output, const at::Tensor& input,
                      const std::vector<int64_t>& rows = {}) const;
  [[nodiscard]] Work reduce_scatter_async(at::Tensor output, const at::Tensor& input,
                                          const std::vector<int64_t>& rows = {}) const;

  /// Block i of input goes to rank i; output holds the blocks received, in rank order. The rows
  /// of each block are given by `output_rows` and `input_rows`; empty means equal blocks.
  void all_to_all(at::Tensor output, const at::Tensor& input,
                  const std::vector<int64_t>& output_rows = {},
                  const std::vector<int64_t>& input_rows = {}) const;
  [[nodiscard]] Work all_to_all_async(at::Tensor output, const at::Tensor& input,
                                      const std::vector<int64_t>& output_rows = {},
                                      const std::vector<int64_t>& input_rows = {}) const;

  /// all_to_all of equal blocks, except that this rank's own block of output is left alone: for
  /// callers that can write it, or read it from input, without a copy.
  void exchange_others(at::Tensor output, const at::Tensor& input) const;

  void broadcast(at::Tensor tensor, int root) const;
  [[nodiscard]] Work broadcast_async(at::Tensor tensor, int root) const;

  void barrier() const;
  [[nodiscard]] Work barrier_async() const;

  /// One number summed (or otherwise reduced) over the group.
  double all_reduce(double value, ReduceOp op = ReduceOp::sum) const;
  int64_t all_reduce(int64_t value, ReduceOp op = ReduceOp::sum) const;
  /// One string from `root` to all.
  std::string broadcast(const std::string& text, int root) const;

  /// Largest count that goes into one MPI call; larger ones are split. Tests lower it.
  void set_max_count(int64_t elements);

 private:
  Work all_reduce_impl(at::Tensor tensor, ReduceOp op, bool async) const;
  Work all_gather_impl(at::Tensor output, const at::Tensor& input, std::vector<int64_t> rows,
                       bool async) const;
  Work reduce_scatter_impl(at::Tensor output, const at::Tensor& input, std::vector<int64_t> rows,
                           bool async) const;
  Work all_to_all_impl(at::Tensor output, const at::Tensor& input, std::vector<int64_t> output_rows,
                       std::vector<int64_t> input_rows, bool async) const;
  Work broadcast_impl(at::Tensor tensor, int root, bool async) const;
  Work barrier_impl(bool async) const;
  Operation begin(const char* name, const Traffic& sent, bool async) const;
  /// What moves `tensor`; throws where nothing does.
  Backend& backend_of(const at::Tensor& tensor, const char* operation) const;
  void make_gpu_backend(GpuRuntime& runtime, void* comm);
  /// n-1 messages with so many bytes in all.
  Traffic to_others(int64_t bytes) const { return {bytes, size_ - 1}; }

  MpiComm comm_;
  const char* name_;  // interned: the watchdog may read it after the Communicator is gone
  int rank_ = 0;
  int size_ = 1;
  std::unique_ptr<MpiBackend> host_;  // null in a group of one
  std::unique_ptr<GpuBackend> gpu_;   // null until use_gpu
  mutable int64_t started_ = 0;
  mutable Traffic sent_;
};

}  // namespace archon
