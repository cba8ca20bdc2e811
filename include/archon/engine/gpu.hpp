#pragma once

#include <ATen/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <vector>

namespace archon {

/// What is published of a GPU and of the network of the node it is sold in; src/engine/gpu.cpp
/// names the sources. All rates are peaks: FLOP/s, or bytes/s of one direction.
struct Gpu {
  std::string name;
  double bfloat16_flops = 0;  ///< tensor cores, without sparsity
  double float32_flops = 0;   ///< without TF32, whose products keep 10 bits of a mantissa
  int64_t memory_bytes = 0;
  double memory_bandwidth = 0;
  double nvlink_bandwidth = 0;   ///< to the GPUs of its own node
  double network_bandwidth = 0;  ///< of the node's network adapters, a GPU's share

  /// Of matrix products in a compute type.
  double flops(at::ScalarType dtype) const;
};

/// All that --gpu knows.
const std::vector<Gpu>& known_gpus();

/// GPUs of one kind. Ranks fill the nodes in order, one a GPU.
struct GpuCluster {
  Gpu gpu;
  int gpus_per_node = 8;
};

}  // namespace archon
