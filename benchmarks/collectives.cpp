// The collectives that sharded parameters use, as Communicator does them and as MPI does: what one
// unit's gather and one unit's sum of gradients cost. On GPUs (cuda) over NCCL, without MPI's.
//
//   mpiexec -n 2 bench_collectives [REPETITIONS [JSON FILE [cpu|cuda]]]
#include <ATen/ops/ones.h>
#include <fmt/format.h>

#include <fstream>
#include <utility>

#include "archon/mesh/topology.hpp"
#include "measure.hpp"

using namespace archon;
using namespace archon::benchmarks;

namespace {

/// One way to do a collective on `whole`, of which each rank's block is `block`.
using Way = std::pair<std::string, std::function<void()>>;

struct Buffers {
  Buffers(const Communicator& comm, int64_t bytes, at::Device device)
      : whole(at::ones({bytes / 4 / comm.size() * comm.size()}, device)),
        block(at::ones({whole.numel() / comm.size()}, device)),
        count(static_cast<int>(block.numel())) {}
  at::Tensor whole, block;
  int count;
};

std::vector<Way> raw_gathers(const Communicator& comm, const Buffers& b) {
  return {
      {"MPI_Allgather",
       [&] {
         ARCHON_MPI(MPI_Allgather(b.block.data_ptr(), b.count, MPI_FLOAT, b.whole.data_ptr(),
                                  b.count, MPI_FLOAT, comm.mpi()));
       }},
      {"MPI_Iallgather",
       [&] {
         MPI_Request request = MPI_REQUEST_NULL;
         ARCHON_MPI(MPI_Iallgather(b.block.data_ptr(), b.count, MPI_FLOAT, b.whole.data_ptr(),
                                   b.count, MPI_FLOAT, comm.mpi(), &request));
         ARCHON_MPI(MPI_Wait(&request, MPI_STATUS_IGNORE));
       }},
  };
}

std::vector<Way> gathers(const Communicator& comm, const Buffers& b) {
  return {
      {"all_gather", [&] { comm.all_gather(b.whole, b.block); }},
      {"all_gather_async", [&] { comm.all_gather_async(b.whole, b.block).wait(); }},
  };
}

std::vector<Way> raw_reductions(const Communicator& comm, const Buffers& b) {
  return {
      {"MPI_Reduce_scatter_block",
       [&] {
         ARCHON_MPI(MPI_Reduce_scatter_block(b.whole.data_ptr(), b.block.data_ptr(), b.count,
                                             MPI_FLOAT, MPI_SUM, comm.mpi()));
       }},
  };
}

std::vector<Way> reductions(const Communicator& comm, const Buffers& b) {
  return {
      {"reduce_scatter", [&] { comm.reduce_scatter(b.block, b.whole); }},
      {"reduce_scatter_async", [&] { comm.reduce_scatter_async(b.block, b.whole).wait(); }},
  };
}

/// All ways in turns, so that they meet the same disturbances; ratios to the first one.
Json run(const Communicator& comm, const std::string& name, const Buffers& buffers, int repetitions,
         const std::vector<Way>& ways) {
  const int64_t bytes = buffers.whole.numel() * 4, mib = (bytes + (1 << 19)) >> 20;
  std::vector<std::vector<double>> times(ways.size());
  for (int i = -2; i < repetitions; ++i)
    for (std::size_t way = 0; way < ways.size(); ++way) {
      const double time = seconds(comm, ways[way].second, buffers.whole.device());
      if (i >= 0) times[way].push_back(time);
    }
  Json rows = Json::array();
  for (std::size_t way = 0; way < ways.size(); ++way) {
    const Summary time = summarize(times[way]), ratio = summarize(ratios(times[0], times[way]));
    rows.push_back({{"collective", name},
                    {"way", ways[way].first},
                    {"mib", mib},
                    {"seconds", to_json(time)},
                    {"first_over_this", to_json(ratio)}});
    if (comm.rank() == 0)
      fmt::print("| {} | {} | {:.2f} | {:.2f} | {} |\n", ways[way].first, mib, time.median * 1e3,
                 static_cast<double>(bytes) / time.median * 1e-9, to_string(ratio));
  }
  return rows;
}

}  // namespace

int main(int argc, char** argv) {
  return run_benchmark([&](MpiEnvironment& mpi) {
    set_threads(mpi, 0);
    const int repetitions = argc > 1 ? std::stoi(argv[1]) : 20;
    const bool cuda = argc > 3 && std::string(argv[3]) == "cuda";
    const Mesh mesh =
        start_mesh({mpi.world_size(), 1, 1}, cuda ? DeviceChoice::cuda : DeviceChoice::cpu, mpi);
    const Communicator& comm = mesh.dp();
    if (comm.rank() == 0)
      fmt::print(
          "{} ranks, float32\n\n| way | MiB | ms | GB/s | first / this (spread) |\n"
          "|---|---|---|---|---|\n",
          comm.size());
    Json rows = Json::array();
    for (const int64_t mib : {1, 16, 64}) {
      const Buffers buffers(comm, mib << 20, mesh.device());
      const auto measure = [&](const char* name, std::vector<Way> ways,
                               const std::vector<Way>& own) {
        ways.insert(ways.end(), own.begin(), own.end());
        for (Json& row : run(comm, name, buffers, repetitions, ways)) rows.push_back(row);
      };
      measure("gather", cuda ? std::vector<Way>() : raw_gathers(comm, buffers),
              gathers(comm, buffers));
      measure("sum", cuda ? std::vector<Way>() : raw_reductions(comm, buffers),
              reductions(comm, buffers));
    }
    if (comm.rank() == 0 && argc > 2) std::ofstream(argv[2]) << rows.dump(1) << '\n';
  });
}
