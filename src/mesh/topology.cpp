#include "archon/mesh/topology.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "archon/base/log.hpp"

namespace archon {
namespace {

/// Whether a group of `size` ranks, `stride` apart, has ranks of several hosts.
bool crosses(const std::vector<int>& hosts, int size, int stride) {
  const int count = static_cast<int>(hosts.size());
  for (int rank = 0; rank < count; ++rank) {
    const int first = rank - rank / stride % size * stride;
    if (hosts[rank] != hosts[first]) return true;
  }
  return false;
}

int most_ranks_of_a_host(const std::vector<int>& hosts) {
  std::map<int, int> ranks;
  for (const int host : hosts) ++ranks[host];
  return std::max_element(ranks.begin(), ranks.end(), [](const auto& a, const auto& b) {
           return a.second < b.second;
         })->second;
}

}  // namespace

std::vector<int> host_of_ranks(MPI_Comm world) {
  int rank = 0, size = 1;
  ARCHON_MPI(MPI_Comm_rank(world, &rank));
  ARCHON_MPI(MPI_Comm_size(world, &size));
  MPI_Comm shared = MPI_COMM_NULL;
  ARCHON_MPI(MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &shared));
  const MpiComm host(shared);
  int first = rank;
  ARCHON_MPI(MPI_Bcast(&first, 1, MPI_INT, 0, shared));
  std::vector<int> firsts(size);
  ARCHON_MPI(MPI_Allgather(&first, 1, MPI_INT, firsts.data(), 1, MPI_INT, world));
  std::map<int, int> numbers;
  for (const int f : firsts) numbers.emplace(f, 0);
  int next = 0;
  for (auto& [_, number] : numbers) number = next++;
  for (int& f : firsts) f = numbers[f];
  return firsts;
}

std::string axes_across_hosts(const MeshShape& shape, const std::vector<int>& hosts) {
  const int room = most_ranks_of_a_host(hosts);
  const auto worth_telling = [&](int size, int stride) {
    return size > 1 && size * stride <= room && crosses(hosts, size, stride);
  };
  const bool tp = worth_telling(shape.tp, 1), cp = worth_telling(shape.cp, shape.tp);
  if (!tp && !cp) return "";
  return fmt::format(
      "{} within every layer, and over several hosts, though {} ranks of a host would hold a group; "
      "start ranks host by host (mpiexec --map-by slot, srun --distribution=block), with a multiple "
      "of cp x tp = {} ranks on each",
      tp && cp ? "tp and cp exchange" : tp ? "tp exchanges" : "cp exchanges", room,
      shape.cp * shape.tp);
}

Mesh start_mesh(const MeshShape& shape, const MpiEnvironment& mpi) {
  Mesh mesh(resolve_mesh_shape(shape, mpi.world_size()), mpi.world());
  const std::string slow = axes_across_hosts(mesh.shape(), host_of_ranks(mpi.world()));
  if (!slow.empty() && mpi.world_rank() == 0) log::warning("{}", slow);
  return mesh;
}

}  // namespace archon
