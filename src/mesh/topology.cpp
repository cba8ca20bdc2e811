#include "archon/mesh/topology.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "archon/base/error.hpp"
#include "archon/base/host_device.hpp"
#include "archon/base/log.hpp"
#include "archon/comm/gpu_device.hpp"

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
  return std::max_element(ranks.begin(), ranks.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->second;
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

LocalRank local_rank(const std::vector<int>& hosts, int rank) {
  LocalRank local;
  for (std::size_t other = 0; other < hosts.size(); ++other) {
    if (hosts[other] != hosts[rank]) continue;
    ++local.size;
    local.rank += static_cast<int>(other) < rank ? 1 : 0;
  }
  return local;
}

std::string axes_across_hosts(const MeshShape& shape, const std::vector<int>& hosts) {
  const int room = most_ranks_of_a_host(hosts);
  const auto worth_telling = [&](int size, int stride) {
    return size > 1 && size * stride <= room && crosses(hosts, size, stride);
  };
  const bool tp = worth_telling(shape.tp, 1), cp = worth_telling(shape.cp, shape.tp);
  if (!tp && !cp) return "";
  return fmt::format(
      "{} within every layer, and over several hosts, though {} ranks of a host would hold a "
      "group; "
      "start ranks host by host (mpiexec --map-by slot, srun --distribution=block), with a "
      "multiple "
      "of cp x tp = {} ranks on each",
      tp && cp ? "tp and cp exchange"
      : tp     ? "tp exchanges"
               : "cp exchanges",
      room, shape.cp * shape.tp);
}

namespace {

/// Why the ranks compute on the CPU, from the first that has no GPU; "" if they need not.
std::string why_on_the_cpu(const GpuSupport& support, const Communicator& world) {
  const int64_t none = support.devices == 0 ? world.rank() : world.size();
  const auto first = static_cast<int>(world.all_reduce(none, ReduceOp::min));
  if (first == world.size()) return "";
  const std::string why = world.broadcast(support.why_none, first);
  return world.size() == 1 ? why : fmt::format("{} (rank {})", why, first);
}

}  // namespace

// Launchers number a host's processes too, but with those of other programs of the job among them.
Mesh start_mesh(const MeshShape& shape, DeviceChoice device, const MpiEnvironment& mpi) {
  Mesh mesh(resolve_mesh_shape(shape, mpi.world_size()), mpi.world());
  const std::vector<int> hosts = host_of_ranks(mpi.world());
  const std::string slow = axes_across_hosts(mesh.shape(), hosts);
  if (!slow.empty() && mpi.world_rank() == 0) log::warning("{}", slow);
  if (device == DeviceChoice::cpu) return mesh;

  const GpuSupport support = gpu_support();
  const std::string why = why_on_the_cpu(support, mesh.world());
  ARCHON_VALIDATE(device != DeviceChoice::cuda || why.empty(),
                  "--device cuda: {}; give every rank a GPU, or compute on the CPU (--device cpu)",
                  why);
  if (why.empty()) {
    const LocalRank local = local_rank(hosts, mesh.world().rank());
    mesh.use_gpu(open_gpu(choose_device(local.rank, local.size, support.devices)));
  } else if (kCudaBuild && mpi.world_rank() == 0) {
    log::info("computes on the CPU: {}", why);
  }
  return mesh;
}

}  // namespace archon
