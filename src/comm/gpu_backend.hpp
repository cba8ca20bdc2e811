#pragma once

#include <atomic>
#include <deque>
#include <mutex>

#include "archon/comm/gpu_runtime.hpp"
#include "archon/comm/watchdog.hpp"
#include "backend.hpp"
#include "roll_call.hpp"

namespace archon {

/// Tensors of a GPU over NCCL, on a stream of the group's own.
///
/// The host never waits: a collective's stream waits for the stream that computes, and that one
/// waits for the collective where its Work is waited for. Sums of float32, float64 and integers
/// are NCCL's own; those of bfloat16 and float16, which NCCL would round at every hop, are an
/// exchange and a local sum in float32.
///
/// The watchdog's thread looks after what is under way: a failure or a time-out ends the process,
/// naming operation, axis and the ranks that did not come.
class GpuBackend final : public Backend, public Watched {
 public:
  /// Takes over `comm`, which may be in progress, and `roll`, a communicator of the same ranks for
  /// the roll call. `axis` lives as long as the process.
  GpuBackend(GpuRuntime& runtime, GpuRuntime::Comm comm, MpiComm roll, const char* axis);
  ~GpuBackend() override;

  GpuRuntime& runtime() const { return runtime_; }
  /// A communicator of the ranks that give the same color, ordered by key; null with kNoColor.
  GpuRuntime::Comm split(int color, int key);

  Work all_reduce(const Operation& operation, at::Tensor flat, ReduceOp op) override;
  Work all_gather(const Operation& operation, at::Tensor output, at::Tensor input,
                  Blocks blocks) override;
  Work reduce_scatter(const Operation& operation, at::Tensor output, at::Tensor input,
                      Blocks blocks, bool even) override;
  Work all_to_all(const Operation& operation, at::Tensor output, Blocks output_blocks,
                  at::Tensor input, Blocks input_blocks, bool even) override;
  void exchange_others(const Operation& operation, at::Tensor output, at::Tensor input) override;
  Work broadcast(const Operation& operation, at::Tensor tensor, int root) override;

  std::string fault(std::chrono::duration<double> timeout) override;
  void attend() noexcept override;
  void end() noexcept override;

 private:
  struct UnderWay {
    Operation operation;
    GpuRuntime::Event done;
    std::chrono::steady_clock::time_point since;  // started, and all before it done
  };

  /// Waits until NCCL has put on the stream what it was given; only then may anything follow there.
  void settle(const char* call);
  template <class Body>
  Work launch(const Operation& operation, std::initializer_list<at::Tensor> tensors, Body body);
  /// Blocks to and from every rank; this rank's own is left to the caller.
  void exchange(const at::Tensor& output, const Blocks& output_blocks, const at::Tensor& input,
                const Blocks& input_blocks);
  /// This rank's own block, too.
  void exchange_all(const at::Tensor& output, const Blocks& output_blocks, const at::Tensor& input,
                    const Blocks& input_blocks);
  void gather(const at::Tensor& output, const Blocks& blocks, const at::Tensor& input);
  Work all_reduce_narrow(const Operation& operation, at::Tensor flat, ReduceOp op);
  void forget_done();
  std::string find_fault(std::chrono::duration<double> timeout);
  std::string why_late(const UnderWay& late, std::chrono::duration<double> timeout);

  GpuRuntime& runtime_;
  GpuRuntime::Comm comm_;
  RollCall roll_call_;
  const char* axis_;
  int rank_, size_;
  GpuRuntime::Stream stream_;
  std::mutex calls_;  // held while NCCL takes calls in: two threads may not look at its state at once
  std::atomic<int64_t> started_{0};
  std::atomic<bool> ended_{false};  // by the watchdog: NCCL has freed the communicator
  std::mutex mutex_;  // of under_way_: the watchdog's thread reads it
  std::deque<UnderWay> under_way_;
};

}  // namespace archon
