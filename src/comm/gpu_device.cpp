#include "archon/comm/gpu_device.hpp"

#include "archon/base/error.hpp"
#include "cuda_platform.hpp"

namespace archon {
namespace {

GpuPlatform& platform() {
  static GpuPlatform current = cuda_platform();
  return current;
}

}  // namespace

int choose_device(int local_rank, int local_size, int devices) {
  // Slurm's --gpus-per-task and the like: device 0 is another one in every process.
  if (devices == 1 && local_size > 1) return 0;
  ARCHON_VALIDATE(local_rank < devices,
                  "{} ranks on this host share {} GPUs; a GPU serves one rank, since NCCL refuses "
                  "two of one communicator on one device; start {} ranks per host, give each its "
                  "own device (srun --gpus-per-task=1), or compute on the CPU (--device cpu)",
                  local_size, devices, devices);
  return local_rank;
}

GpuSupport gpu_support() { return platform().support(); }

std::unique_ptr<GpuRuntime> open_gpu(int device) { return platform().open(device); }

void replace_gpu_platform(const GpuPlatform& other) { platform() = other; }

#ifndef ARCHON_CUDA

GpuPlatform cuda_platform() {
  static constexpr const char* kNone =
      "this archon was built without CUDA (configure with -DARCHON_CUDA=ON)";
  return {[] { return GpuSupport{0, kNone}; },
          [](int) -> std::unique_ptr<GpuRuntime> { throw_runtime_failure(kNone); }};
}

#endif

}  // namespace archon
