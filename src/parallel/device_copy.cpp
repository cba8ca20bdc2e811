#include "archon/parallel/device_copy.hpp"

#include <ATen/ops/zeros.h>

namespace archon {

at::Tensor copy_to(at::Device device, const at::Tensor& host) {
  if (device.is_cpu()) return host;
  const bool pin = device.is_cuda() && !host.is_pinned();
  return (pin ? host.pin_memory() : host).to(device, host.scalar_type(), /*non_blocking=*/true);
}

void wait_for(at::Device device) {
  if (!device.is_cpu()) at::zeros({1}, device).cpu();
}

}  // namespace archon
