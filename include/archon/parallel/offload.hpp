#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "archon/comm/gpu_runtime.hpp"

namespace archon {

/// Activations that wait in pinned host memory for their backward. They are copied there and back
/// on a stream of its own, beside the computation; the host waits for neither.
///
/// What was stored last is taken first, as backward passes do: taking one starts the way back of
/// the one before it.
class ActivationOffload {
 public:
  /// One of them.
  struct Stored {
    at::Tensor host;
    at::Tensor device;           ///< from the start of its way back on
    GpuRuntime::Event returned;  ///< that it is back
  };

  /// `gpu` must outlive it.
  explicit ActivationOffload(GpuRuntime& gpu);

  /// Starts the copy of x, a tensor of the GPU that nothing writes to any more.
  std::shared_ptr<Stored> store(const at::Tensor& x);
  /// The tensor, on the GPU again. Once.
  at::Tensor take(const std::shared_ptr<Stored>& stored);

 private:
  void copy_beside(const at::Tensor& to, const at::Tensor& from, const at::Tensor& on_gpu);
  void start_return(Stored& stored);

  GpuRuntime& gpu_;
  GpuRuntime::Stream stream_;
  std::vector<std::weak_ptr<Stored>> waiting_;  // in the order in which they were stored
};

}  // namespace archon
