#pragma once

#include <string>
#include <vector>

#include "archon/mesh/mesh.hpp"

namespace archon {

/// A number for the host of every rank of `world`, the same for ranks that share memory; hosts are
/// numbered in the order of their first ranks. Collective.
std::vector<int> host_of_ranks(MPI_Comm world);

/// The place of `rank` among the ranks of its host.
struct LocalRank {
  int rank = 0;  ///< how many of them come before it
  int size = 0;
};
LocalRank local_rank(const std::vector<int>& hosts, int rank);

/// What is slow about a mesh whose ranks lie on these hosts, in words: an axis that exchanges within
/// every layer (tp, then cp) and has a group with ranks of several hosts though a host has room for
/// it. "" when nothing is.
std::string axes_across_hosts(const MeshShape& shape, const std::vector<int>& hosts);

/// What a job computes on.
enum class DeviceChoice {
  automatic,  ///< GPUs where every rank sees one, else the CPU
  cpu,
  cuda
};

/// The mesh of a job: `shape` filled in and checked, with a warning where axes_across_hosts has one,
/// and each rank's GPU opened where GPUs are used. InputError where cuda is asked for and a rank sees
/// no GPU. Collective.
Mesh start_mesh(const MeshShape& shape, DeviceChoice device, const MpiEnvironment& mpi);

}  // namespace archon
