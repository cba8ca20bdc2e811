#include "archon/comm/gpu_device.hpp"

#include "archon/base/error.hpp"

namespace archon {

int choose_device(int local_rank, int local_size, int devices) {
  // Slurm's --gpus-per-task and the like: device 0 is another one in every process.
  if (devices == 1 && local_size > 1) return 0;
  ARCHON_VALIDATE(local_rank < devices,
                  "{} ranks on this host share {} GPUs; a GPU serves one rank, since NCCL refuses "
                  "two of one communicator on one device; start {} ranks per host, or give each its "
                  "own device (srun --gpus-per-task=1)",
                  local_size, devices, devices);
  return local_rank;
}

#ifndef ARCHON_CUDA

GpuSupport gpu_support() {
  return {0, "this archon was built without CUDA (configure with -DARCHON_CUDA=ON)"};
}

std::unique_ptr<GpuRuntime> open_gpu(int) { throw_runtime_failure(gpu_support().why_none); }

#endif

}  // namespace archon
