// Ulysses' two exchanges, re-layout included, against a bare MPI_Alltoall of the same bytes on
// buffers that exist already.
//
//   mpiexec -n 2 bench_ulysses [REPETITIONS [JSON FILE]]
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <fmt/format.h>

#include <fstream>

#include "archon/mesh/mesh.hpp"
#include "archon/parallel/ulysses.hpp"
#include "measure.hpp"

using namespace archon;
using namespace archon::benchmarks;

namespace {

constexpr int64_t kHeads = 8, kKvHeads = 4, kHeadDim = 128;

/// One exchange, forward and backward, with an input of `bytes` bytes on each rank.
struct Exchange {
  std::string name;
  at::Tensor input;                                      // leaf
  std::function<at::Tensor(const at::Tensor&)> forward;  // collective
};

Exchange scatter_heads(int64_t bytes, const Communicator& cp) {
  const int64_t heads = kHeads + 2 * kKvHeads, tokens = bytes / (heads * kHeadDim * 4);
  const UlyssesHeads layout{kHeads, kKvHeads, cp.size()};
  return {"scatter_heads", at::ones({tokens, heads, kHeadDim}).requires_grad_(),
          [layout, &cp](const at::Tensor& x) { return ulysses_scatter_heads(x, layout, cp); }};
}

Exchange gather_heads(int64_t bytes, const Communicator& cp) {
  const int64_t heads = kHeads / cp.size(), tokens = bytes / (heads * kHeadDim * 4);
  return {"gather_heads", at::ones({tokens, heads, kHeadDim}).requires_grad_(),
          [&cp](const at::Tensor& x) { return ulysses_gather_heads(x, cp); }};
}

struct Times {
  std::vector<double> raw, ours, copy;
};

/// Raw, ours, copy, raw, ours, copy, …
Times measure(const Communicator& cp, int64_t bytes, int repetitions,
              const std::function<void()>& ours) {
  const int64_t block = bytes / 4 / cp.size();
  const at::Tensor send = at::ones({cp.size(), block}), receive = at::ones({cp.size(), block});
  // The re-layout by itself: blocks of rank and token change places, head by head.
  const at::Tensor swapped = receive.view({-1, cp.size(), kHeadDim});
  const at::Tensor blocks = send.view({cp.size(), -1, kHeadDim}).transpose(0, 1);
  const auto raw = [&] {
    ARCHON_MPI(MPI_Alltoall(send.data_ptr(), static_cast<int>(block), MPI_FLOAT, receive.data_ptr(),
                            static_cast<int>(block), MPI_FLOAT, cp.mpi()));
  };
  const auto copy = [&] { swapped.copy_(blocks); };
  Times times;
  for (int i = -2; i < repetitions; ++i) {
    const double a = seconds(cp, raw), b = seconds(cp, ours), c = seconds(cp, copy);
    if (i < 0) continue;  // warm-up
    times.raw.push_back(a);
    times.ours.push_back(b);
    times.copy.push_back(c);
  }
  return times;
}

Json report(const std::string& name, int64_t bytes, const Times& times, bool print) {
  const Summary raw = summarize(times.raw), ours = summarize(times.ours),
                copy = summarize(times.copy), ratio = summarize(ratios(times.raw, times.ours));
  const auto gbs = [bytes](const Summary& time) {
    return static_cast<double>(bytes) / time.median * 1e-9;
  };
  if (print)
    fmt::print("| {} | {} | {:.3f} | {:.2f} | {:.3f} | {:.2f} | {:.3f} | {} |\n", name, bytes >> 20,
               raw.median * 1e3, gbs(raw), ours.median * 1e3, gbs(ours), copy.median * 1e3,
               to_string(ratio));
  return {{"exchange", name},        {"mib", bytes >> 20},      {"raw_s", to_json(raw)},
          {"ours_s", to_json(ours)}, {"copy_s", to_json(copy)}, {"raw_over_ours", to_json(ratio)}};
}

Json run(const Communicator& cp, int repetitions) {
  Json rows = Json::array();
  const bool print = cp.rank() == 0;
  if (print)
    fmt::print(
        "{} ranks, float32\n\n| exchange | MiB/rank | MPI_Alltoall ms | GB/s | Archon ms | GB/s | "
        "copy alone ms | MPI/Archon (spread) |\n|---|---|---|---|---|---|---|---|\n",
        cp.size());
  for (const int64_t mib : {1, 16, 64})
    for (const auto make : {scatter_heads, gather_heads}) {
      const int64_t bytes = mib << 20;
      const Exchange exchange = make(bytes, cp);
      const at::Tensor out = exchange.forward(exchange.input);
      const at::Tensor out_grad = at::ones(out.sizes());
      rows.push_back(report(
          exchange.name + " forward", bytes,
          measure(cp, bytes, repetitions, [&] { exchange.forward(exchange.input); }), print));
      rows.push_back(report(exchange.name + " backward", bytes,
                            measure(cp, bytes, repetitions,
                                    [&] {
                                      out.backward(out_grad, /*retain_graph=*/true);
                                      exchange.input.mutable_grad().reset();
                                    }),
                            print));
    }
  return rows;
}

}  // namespace

int main(int argc, char** argv) {
  return run_benchmark([&](MpiEnvironment& mpi) {
    set_threads(mpi, 0);
    const Mesh mesh({1, mpi.world_size(), 1}, MPI_COMM_WORLD);
    const Json rows = run(mesh.cp(), argc > 1 ? std::stoi(argv[1]) : 30);
    if (mpi.world_rank() == 0 && argc > 2) std::ofstream(argv[2]) << rows.dump(1) << '\n';
  });
}
