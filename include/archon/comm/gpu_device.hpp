#pragma once

#include <memory>
#include <string>

#include "archon/comm/gpu_runtime.hpp"

namespace archon {

/// The GPUs that this process sees.
struct GpuSupport {
  int devices = 0;
  std::string why_none;  ///< "" where there are some
};

/// Honours CUDA_VISIBLE_DEVICES. Without CUDA in the build, without a driver or without a device
/// there are none, and why_none says so.
GpuSupport gpu_support();

/// The device of the process that is number `local_rank` of `local_size` on its host: where a
/// launcher shows each process one device, that one; else one of its own. InputError where there
/// are fewer devices than processes.
int choose_device(int local_rank, int local_size, int devices);

/// NCCL and CUDA on `device`, which becomes this process's current one. RuntimeFailure where
/// gpu_support tells of no device.
std::unique_ptr<GpuRuntime> open_gpu(int device);

/// Where the two functions above get GPUs from: CUDA.
struct GpuPlatform {
  GpuSupport (*support)();
  std::unique_ptr<GpuRuntime> (*open)(int device);
};

/// Puts GPUs of another kind in CUDA's place, for tests. Call before the first mesh is made.
void replace_gpu_platform(const GpuPlatform& platform);

}  // namespace archon
