#include "archon/parallel/device_copy.hpp"

#include <ATen/ops/empty.h>

namespace archon {

at::Tensor copy_to(at::Device device, const at::Tensor& host) {
  if (device.is_cpu()) return host;
  const bool pin = device.is_cuda() && !host.is_pinned();
  return (pin ? host.pin_memory() : host).to(device, host.scalar_type(), /*non_blocking=*/true);
}

at::Tensor copy_to_host_later(const at::Tensor& x) {
  const auto options = x.options().device(at::kCPU).pinned_memory(x.is_cuda());
  const at::Tensor host = at::empty(x.sizes(), options);
  return host.copy_(x, /*non_blocking=*/true);
}

}  // namespace archon
