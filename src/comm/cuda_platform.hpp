#pragma once

#include "archon/comm/gpu_device.hpp"

namespace archon {

/// The real GPUs; none in a build without CUDA.
GpuPlatform cuda_platform();

}  // namespace archon
