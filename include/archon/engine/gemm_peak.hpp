#pragma once

#include <ATen/core/Tensor.h>

#include "archon/comm/communicator.hpp"
#include "archon/mesh/mesh.hpp"

namespace archon {

/// What matrix products reach on this machine, with this process's threads, when all ranks compute
/// at the same time: what a training step is measured against.
class GemmPeak {
 public:
  /// Products of two matrices [size, size].
  explicit GemmPeak(at::ScalarType dtype, int64_t size = 2048, at::Device device = at::kCPU);

  /// GFLOP/s over all ranks, until the slowest is done: the faster of at::mm and matmul_nt, each
  /// repeated for about `seconds`, in the best of three rounds. Collective.
  double measure(const Communicator& world, double seconds) const;

 private:
  template <class Product>
  double rate(const Communicator& world, double seconds, Product product) const;
  at::Tensor a_, b_;
};

/// GFLOP/s over all ranks of the mesh, measured in some hundredths of a second where this process
/// has not measured them before: its runs share the machine. Collective.
double gemm_peak(const Mesh& mesh, at::ScalarType dtype);

}  // namespace archon
