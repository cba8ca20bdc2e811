#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "archon/comm/reduce_op.hpp"

namespace archon {

/// What the NCCL backend asks of NCCL and of CUDA's streams and events, and nothing more: its logic
/// is tested through this seam on machines without a GPU (tests/support/host_gpu.hpp).
///
/// Calls put work on streams and return; pointers and tensors belong to the device of this process.
/// Every call throws RuntimeFailure with the library's own text where it fails at once; what fails
/// later shows in `state`. Made for NCCL's non-blocking communicators: after `init`, `split` and
/// `group_end`, a communicator may be `in_progress`, and is not to be used before it is `ready`.
class GpuRuntime {
 public:
  /// A stream, for the life of the process.
  using Stream = void*;
  /// A point in a stream.
  using Event = std::shared_ptr<void>;
  using Comm = void*;
  using UniqueId = std::array<char, 128>;

  enum class CommState { ready, in_progress, failed };

  virtual ~GpuRuntime() = default;

  /// Tensors that it owns are there.
  virtual at::Device device() const = 0;
  /// Whether `tensor` is in this device's memory.
  bool owns(const at::Tensor& tensor) const { return tensor.device() == device(); }

  /// The most that tensors have taken there, so far or since the peak was forgotten.
  virtual int64_t peak_memory_bytes() const = 0;
  virtual void forget_peak_memory() = 0;

  /// The stream that computes.
  virtual Stream current_stream() = 0;
  virtual Stream create_stream() = 0;
  /// The point that `stream` has reached when all that was put on it so far is done.
  virtual Event record(Stream stream) = 0;
  /// What is put on `stream` from here on waits for `event`; the host does not.
  virtual void wait(Stream stream, const Event& event) = 0;
  /// Whether the point was reached. May be called from any thread.
  virtual bool reached(const Event& event) = 0;
  /// Runs `launch` with `stream` as the one that tensor operations go to.
  virtual void run_on(Stream stream, const std::function<void()>& launch) = 0;
  /// The memory of `tensor` is not given to another tensor before what is on `stream` now, and is
  /// put there before its next `record`, is done.
  virtual void keep_for(Stream stream, const at::Tensor& tensor) = 0;

  virtual UniqueId unique_id() = 0;
  /// Collective over the `size` ranks that hold the id.
  virtual Comm init(const UniqueId& id, int size, int rank) = 0;
  /// Collective over `parent`: one communicator for each color, ranks ordered by key. With kNoColor
  /// this rank takes part and gets none (null). `part` is filled in while the parent is in progress.
  static constexpr int kNoColor = -1;
  virtual void split(Comm parent, int color, int key, Comm& part) = 0;
  /// Ends a communicator that all ranks have come to the end of.
  virtual void destroy(Comm comm) = 0;
  /// Ends it at once, with what is under way, and never waits for a peer. From any thread.
  virtual void abort(Comm comm) noexcept = 0;
  /// From any thread, but not while another asks too, or is in a call for this communicator: NCCL
  /// completes the call for whoever asks first, and frees what the other still looks at.
  virtual CommState state(Comm comm) = 0;
  /// Why it failed, in the library's words. As `state`.
  virtual std::string failure(Comm comm) = 0;

  /// Calls between these two start together; sends and receives must be inside.
  virtual void group_start() = 0;
  virtual void group_end() = 0;
  virtual void send(Comm comm, const void* data, int64_t bytes, int peer, Stream stream) = 0;
  virtual void receive(Comm comm, void* data, int64_t bytes, int peer, Stream stream) = 0;
  /// The same number of bytes from every rank, in rank order.
  virtual void all_gather(Comm comm, const void* input, void* output, int64_t bytes,
                          Stream stream) = 0;
  virtual void broadcast(Comm comm, void* data, int64_t bytes, int root, Stream stream) = 0;
  /// In place.
  virtual void all_reduce(Comm comm, void* data, int64_t count, at::ScalarType type, ReduceOp op,
                          Stream stream) = 0;
  /// Sums of blocks of `count` elements; block r of the input goes to rank r.
  virtual void reduce_scatter(Comm comm, const void* input, void* output, int64_t count,
                              at::ScalarType type, Stream stream) = 0;
  /// The sum at `root`; the output of other ranks is not written.
  virtual void reduce(Comm comm, const void* input, void* output, int64_t count,
                      at::ScalarType type, int root, Stream stream) = 0;
};

}  // namespace archon
