#pragma once

#include <array>
#include <memory>
#include <string>

#include "archon/comm/communicator.hpp"

namespace archon {

/// Extents of the mesh; one of them may be -1: computed from the world size.
struct MeshShape {
  int dp = -1;
  int cp = 1;
  int tp = 1;

  int size() const { return dp * cp * tp; }
};

/// Fills in a -1 and checks dp·cp·tp == world_size; InputError if that cannot be.
MeshShape resolve_mesh_shape(MeshShape shape, int world_size);

/// "dp 2 x cp 2 x tp 1"
std::string to_string(const MeshShape& shape);

/// What one rank sent over one group of the mesh.
struct AxisTraffic {
  const char* axis;  ///< "world", "dp", "cp", "tp", "model_parallel" or "shard"
  Traffic sent;
};

/// The Cartesian communicator of shape (dp, cp, tp) and its sub-communicators.
///
/// Row-major: rank = (dp_rank·cp + cp_rank)·tp + tp_rank, without reordering.
class Mesh {
 public:
  /// Collective over `world`. `shape` must be resolved.
  Mesh(MeshShape shape, MPI_Comm world);
  /// A mesh of this process alone; needs no MPI.
  static Mesh self();
  /// The place of `rank` in a mesh on paper, for planning: its communicators cannot communicate.
  static Mesh shape_only(MeshShape shape, int rank);

  /// From here on the groups exchange tensors of `runtime`'s GPU too. Collective.
  void use_gpu(std::shared_ptr<GpuRuntime> runtime);
  /// What this rank computes on: the GPU, or the CPU where it uses none.
  at::Device device() const;
  /// Null where the CPU computes.
  GpuRuntime* gpu() const { return gpu_.get(); }

  const MeshShape& shape() const { return shape_; }
  int dp_rank() const { return dp_.rank(); }
  int cp_rank() const { return cp_.rank(); }
  int tp_rank() const { return tp_.rank(); }

  const Communicator& world() const { return world_; }
  const Communicator& dp() const { return dp_; }
  const Communicator& cp() const { return cp_; }
  const Communicator& tp() const { return tp_; }
  /// The cp × tp ranks with one dp_rank; its rank 0 is the data-parallel head.
  const Communicator& model_parallel() const { return model_parallel_; }
  /// The dp × cp ranks with one tp_rank.
  const Communicator& shard_group() const { return shard_group_; }

  /// What this rank sent so far over each of the six groups.
  std::array<AxisTraffic, 6> traffic() const;

  bool is_data_parallel_head() const { return model_parallel_.rank() == 0; }

 private:
  /// One communicator for each group, from make_group(name, rank in it, size).
  template <class MakeGroup>
  Mesh(MeshShape shape, int rank, const MakeGroup& make_group);
  MeshShape shape_;
  std::shared_ptr<GpuRuntime> gpu_;  // outlives the groups
  Communicator world_, dp_, cp_, tp_, model_parallel_, shard_group_;
};

}  // namespace archon
