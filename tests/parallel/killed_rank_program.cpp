// Four sharded units, forward and backward, without end; rank 1 is killed at a chosen moment.
//   mpiexec -n 4 killed_rank_program all_gather|reduce_scatter
#include <ATen/ops/ones.h>
#include <signal.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "archon/comm/mpi.hpp"
#include "archon/comm/watchdog.hpp"
#include "archon/parallel/segment.hpp"
#include "support/world.hpp"

using namespace archon;

namespace {

struct Layer {
  explicit Layer(int index)
      : weight({{{"w", {8, 8}}}, TpPlacement::rows}),
        unit("layers." + std::to_string(index), {&weight}) {}
  Parameter weight;
  ParameterUnit unit;
};

void die() { ::raise(SIGKILL); }

}  // namespace

int main(int, char** argv) {
  const std::string where = argv[1];
  MpiEnvironment mpi;
  const Watchdog watchdog(std::chrono::seconds(0), mpi.world_rank());
  const Communicator group = test::world_group();
  // Without gathers in between, the sum of gradients is what the others wait in.
  Sharding sharding({.mode = where == "all_gather" ? ShardMode::full : ShardMode::optimizer}, group);
  std::vector<std::unique_ptr<Layer>> layers;
  for (int i = 0; i < 4; ++i) {
    layers.push_back(std::make_unique<Layer>(i));
    layers.back()->unit.allocate(sharding);
    at::Tensor(layers.back()->weight.master()).fill_(0.01);
    layers.back()->unit.refresh_values();
  }
  for (int step = 0; step < 1000; ++step) {
    at::Tensor x = at::ones({4, 8}).set_requires_grad(true);
    for (int i = 0; i < 4; ++i) {
      const bool victim = mpi.world_rank() == 1 && step == 3 && i == 1;
      x = run_segment({.unit = layers[i]->unit}, x, [&, i, victim](const at::Tensor& input) {
        if (victim && where == "all_gather") die();
        const at::Tensor y = input.matmul(layers[i]->weight.value());
        if (victim) y.register_hook([](const at::Tensor&) { die(); });
        return y;
      });
    }
    x.sum().backward();
    sharding.finish_reduction();
    for (const auto& layer : layers) layer->unit.clear_gradients();
  }
  return 0;
}
