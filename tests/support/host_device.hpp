#pragma once

/// A device of LibTorch in host memory, under the name that LibTorch keeps for devices of others
/// (PrivateUse1), for tests alone: every operation on its tensors is the CPU's on the same memory. What
/// no GPU would do is an error here, too: an operation whose tensors are not all on one device.
///
/// Linking host_device.cpp registers it. HostGpu(host_device()) exchanges its tensors, and
/// use_host_gpus() lets `--device cuda` mean it.
#include <ATen/core/Tensor.h>

namespace archon::test {

inline at::Device host_device() { return {at::kPrivateUse1, 0}; }

/// From here on every mesh that is started with GPUs gets a HostGpu of this device.
void use_host_gpus();

}  // namespace archon::test
