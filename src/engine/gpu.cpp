#include "archon/engine/gpu.hpp"

#include "archon/base/error.hpp"

namespace archon {
namespace {

constexpr double kTera = 1e12, kGiga = 1e9;
constexpr int64_t kGigabyte = 1'000'000'000;  // as datasheets count
constexpr double kGigabit = 1e9 / 8;

}  // namespace

const std::vector<Gpu>& known_gpus() {
  // GPUs: NVIDIA's datasheets "A100 80GB SXM", "H100 SXM" and "Blackwell" (the GPU of an HGX B200).
  // They give bfloat16 with sparsity for the latter two, 1979 and 4500 TFLOPS, twice the dense
  // rate; and NVLink as the sum of both directions, 600, 900 and 1800 GB/s.
  // Network: NVIDIA's "DGX SuperPOD" reference architectures for A100 and H100, and the "DGX B200
  // User Guide": one adapter a GPU, of 200, 400 and 400 Gb/s.
  static const std::vector<Gpu> gpus = {
      {.name = "a100",
       .bfloat16_flops = 312 * kTera,
       .float32_flops = 19.5 * kTera,
       .memory_bytes = 80 * kGigabyte,
       .memory_bandwidth = 2039 * kGiga,
       .nvlink_bandwidth = 300 * kGiga,
       .network_bandwidth = 200 * kGigabit},
      {.name = "h100",
       .bfloat16_flops = 989.5 * kTera,
       .float32_flops = 67 * kTera,
       .memory_bytes = 80 * kGigabyte,
       .memory_bandwidth = 3350 * kGiga,
       .nvlink_bandwidth = 450 * kGiga,
       .network_bandwidth = 400 * kGigabit},
      {.name = "b200",
       .bfloat16_flops = 2250 * kTera,
       .float32_flops = 75 * kTera,
       .memory_bytes = 180 * kGigabyte,
       .memory_bandwidth = 7700 * kGiga,
       .nvlink_bandwidth = 900 * kGiga,
       .network_bandwidth = 400 * kGigabit},
  };
  return gpus;
}

double Gpu::flops(at::ScalarType dtype) const {
  ARCHON_ENSURE(dtype == at::kFloat || dtype == at::kBFloat16, "no peak rate of {} is known for {}",
                c10::toString(dtype), name);
  return dtype == at::kFloat ? float32_flops : bfloat16_flops;
}

}  // namespace archon
