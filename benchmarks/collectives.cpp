// The collectives that sharded parameters use, as Communicator does them and as MPI does: what one
// unit's gather and one unit's sum of gradients cost.
//
//   mpiexec -n 2 bench_collectives [REPETITIONS [JSON FILE]]
#include <ATen/ops/ones.h>
#include <fmt/format.h>

#include <fstream>
#include <utility>

#include "archon/mesh/mesh.hpp"
#include "measure.hpp"

using namespace archon;
using namespace archon::benchmarks;

namespace {

/// One way to do a collective on `whole`, of which each rank's block is `block`.
using Way = std::pair<std::string, std::function<void()>>;

struct Buffers {
  Buffers(const Communicator& comm, int64_t bytes)
      : whole(at::ones({bytes / 4 / comm.size() * comm.size()})),
        block(at::ones({whole.numel() / comm.size()})),
        count(static_cast<int>(block.numel())) {}
  at::Tensor whole, block;
  int count;
};

std::vector<Way> gathers(const Communicator& comm, const Buffers& b) {
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
      {"all_gather", [&] { comm.all_gather(b.whole, b.block); }},
      {"all_gather_async", [&] { comm.all_gather_async(b.whole, b.block).wait(); }},
  };
}

std::vector<Way> reductions(const Communicator& comm, const Buffers& b) {
  return {
      {"MPI_Reduce_scatter_block",
       [&] {
         ARCHON_MPI(MPI_Reduce_scatter_block(b.whole.data_ptr(), b.block.data_ptr(), b.count,
                                             MPI_FLOAT, MPI_SUM, comm.mpi()));
       }},
      {"reduce_scatter", [&] { comm.reduce_scatter(b.block, b.whole); }},
      {"reduce_scatter_async", [&] { comm.reduce_scatter_async(b.block, b.whole).wait(); }},
  };
}

/// All ways in turns, so that they meet the same disturbances; ratios to the first one.
Json run(const Communicator& comm, const std::string& name, int64_t bytes, int repetitions,
         const std::vector<Way>& ways) {
  std::vector<std::vector<double>> times(ways.size());
  for (int i = -2; i < repetitions; ++i)
    for (std::size_t way = 0; way < ways.size(); ++way) {
      const double time = seconds(comm, ways[way].second);
      if (i >= 0) times[way].push_back(time);
    }
  Json rows = Json::array();
  for (std::size_t way = 0; way < ways.size(); ++way) {
    const Summary time = summarize(times[way]), ratio = summarize(ratios(times[0], times[way]));
    rows.push_back({{"collective", name},
                    {"way", ways[way].first},
                    {"mib", bytes >> 20},
                    {"seconds", to_json(time)},
                    {"first_over_this", to_json(ratio)}});
    if (comm.rank() == 0)
      fmt::print("| {} | {} | {:.2f} | {:.2f} | {} |\n", ways[way].first, bytes >> 20,
                 time.median * 1e3, static_cast<double>(bytes) / time.median * 1e-9,
                 to_string(ratio));
  }
  return rows;
}

}  // namespace

int main(int argc, char** argv) {
  return run_benchmark([&](MpiEnvironment& mpi) {
    set_threads(mpi, 0);
    const int repetitions = argc > 1 ? std::stoi(argv[1]) : 20;
    const Mesh mesh({mpi.world_size(), 1, 1}, MPI_COMM_WORLD);
    const Communicator& comm = mesh.dp();
    if (comm.rank() == 0)
      fmt::print("{} ranks, float32\n\n| way | MiB | ms | GB/s | MPI / this (spread) |\n"
                 "|---|---|---|---|---|\n",
                 comm.size());
    Json rows = Json::array();
    for (const int64_t mib : {1, 16, 64}) {
      const Buffers buffers(comm, mib << 20);
      rows.push_back(run(comm, "gather", mib << 20, repetitions, gathers(comm, buffers)));
      rows.push_back(run(comm, "sum", mib << 20, repetitions, reductions(comm, buffers)));
    }
    if (comm.rank() == 0 && argc > 2) std::ofstream(argv[2]) << rows.dump(1) << '\n';
  });
}
