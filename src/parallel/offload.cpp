#include "archon/parallel/offload.hpp"

#include <ATen/ops/empty.h>

#include <utility>

namespace archon {

ActivationOffload::ActivationOffload(GpuRuntime& gpu) : gpu_(gpu), stream_(gpu.create_stream()) {}

/// After all that the computing stream was given so far: what is read is computed then, and memory
/// that is written to is no longer another tensor's.
void ActivationOffload::copy_beside(const at::Tensor& to, const at::Tensor& from,
                                    const at::Tensor& on_gpu) {
  gpu_.wait(stream_, gpu_.record(gpu_.current_stream()));
  gpu_.keep_for(stream_, on_gpu);
  gpu_.run_on(stream_, [to, from] { to.copy_(from, /*non_blocking=*/true); });
}

std::shared_ptr<ActivationOffload::Stored> ActivationOffload::store(const at::Tensor& x) {
  auto stored = std::make_shared<Stored>();
  const auto options = x.options().device(at::kCPU).pinned_memory(x.is_cuda());
  stored->host = at::empty(x.sizes(), options);
  copy_beside(stored->host, x.detach(), x);
  gpu_.record(stream_);  // to which x is kept
  waiting_.push_back(stored);
  return stored;
}

void ActivationOffload::start_return(Stored& stored) {
  if (stored.device.defined()) return;
  const auto options = stored.host.options().device(gpu_.device()).pinned_memory(false);
  stored.device = at::empty(stored.host.sizes(), options);
  copy_beside(stored.device, stored.host, stored.device);
  stored.returned = gpu_.record(stream_);
}

at::Tensor ActivationOffload::take(const std::shared_ptr<Stored>& stored) {
  start_return(*stored);
  std::erase_if(waiting_, [&](const std::weak_ptr<Stored>& other) {
    return other.expired() || other.lock() == stored;
  });
  if (!waiting_.empty()) start_return(*waiting_.back().lock());
  gpu_.wait(gpu_.current_stream(), stored->returned);
  stored->host.reset();
  return std::exchange(stored->device, at::Tensor());
}

}  // namespace archon
