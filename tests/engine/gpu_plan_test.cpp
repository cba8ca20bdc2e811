// The least time of a step on GPUs: each term against numbers worked out by hand, and the links
// against a count of every pair of ranks.
#include <boost/test/unit_test.hpp>
#include <map>
#include <set>

#include "archon/engine/plan.hpp"
#include "support/model_cases.hpp"

using namespace archon;
using namespace archon::test;

namespace {

// hidden 48, intermediate 96, 2 layers, 4 heads of 32, 2 key/value heads, q/k norm, vocabulary 256
const std::string kModel = golden_folder("q3_tiny") + "/model";

/// Rates that make seconds easy to tell apart.
GpuCluster toy_cluster(int gpus_per_node) {
  return {.gpu = {.name = "toy",
                  .bfloat16_flops = 2e6,
                  .float32_flops = 1e6,
                  .memory_bytes = 1 << 30,
                  .memory_bandwidth = 1e6,
                  .nvlink_bandwidth = 1e5,
                  .network_bandwidth = 1e4},
          .gpus_per_node = gpus_per_node};
}

struct Planner {
  explicit Planner(const MeshShape& mesh) {
    options.run.mesh = mesh;
    options.run.micro_batch_tokens = 64;
  }
  BatchShape batch() const {
    return shape_of_batch(lengths, options.run, config, options.run.mesh);
  }
  StepPlan on_gpus(const GpuCluster& cluster) const {
    return plan_gpu_step(spec, config, options, batch(), cluster);
  }
  StepPlan on_cpu(int rank) const { return plan_step(spec, config, options, batch(), rank); }

  const ModelSpec& spec = ModelRegistry::instance().find("qwen3");
  DecoderConfig config = spec.parse_config(HfConfig::read(kModel));
  TrainOptions options;
  std::vector<int64_t> lengths = {64, 64, 64, 64};
};

void check_term(const BoundTerm& term, double amount, const std::string& resource, double seconds) {
  BOOST_CHECK_CLOSE(term.amount, amount, 1e-9);
  BOOST_TEST(term.resource == resource);
  BOOST_CHECK_CLOSE(term.seconds, seconds, 1e-9);
}

// ---- links --------------------------------------------------------------------------------------

/// The groups of one axis of a mesh: ranks that agree in the coordinates of the other axes.
std::vector<std::set<int>> groups_of(const MeshShape& mesh, const std::string& axis) {
  std::map<std::vector<int>, std::set<int>> groups;
  for (int rank = 0; rank < mesh.size(); ++rank) {
    const int tp = rank % mesh.tp, cp = rank / mesh.tp % mesh.cp, dp = rank / mesh.tp / mesh.cp;
    const std::map<std::string, std::vector<int>> others = {
        {"tp", {dp, cp}}, {"cp", {dp, tp}}, {"dp", {cp, tp}}, {"shard", {tp}}, {"world", {}}};
    groups[others.at(axis)].insert(rank);
  }
  std::vector<std::set<int>> all;
  for (const auto& [key, group] : groups) all.push_back(group);
  return all;
}

/// Blocks of one byte, sent from each rank to each other of its group, followed one by one.
LinkLoad followed(const std::vector<std::set<int>>& groups, Exchange exchange, int gpus_per_node) {
  std::map<int, double> into_gpu, into_node;
  for (const std::set<int>& group : groups)
    for (const int from : group) {
      std::set<int> reached;  // nodes that have this rank's block
      for (const int to : group) {
        const int node = to / gpus_per_node;
        if (from == to) continue;
        if (from / gpus_per_node == node)
          into_gpu[to] += 1;
        else if (exchange == Exchange::all_to_all || reached.insert(node).second)
          into_node[node] += 1;
      }
    }
  LinkLoad load;
  for (const auto& [gpu, bytes] : into_gpu) load.nvlink = std::max(load.nvlink, bytes);
  for (const auto& [node, bytes] : into_node)
    load.network = std::max(load.network, bytes / gpus_per_node);
  return load;
}

}  // namespace

BOOST_TEST_GLOBAL_FIXTURE(LoadedPlugins);

BOOST_AUTO_TEST_CASE(blocks_take_nvlink_within_a_node_and_the_network_between_nodes) {
  // 7 blocks of one byte, all from the own node.
  LinkLoad load = link_load(7, {1, 8}, Exchange::gather, 64, 8);
  BOOST_TEST(load.nvlink == 7);
  BOOST_TEST(load.network == 0);
  // Eight groups of two ranks, one in each node: eight blocks into a node of eight GPUs.
  load = link_load(1, {8, 2}, Exchange::gather, 16, 8);
  BOOST_TEST(load.nvlink == 0);
  BOOST_TEST(load.network == 1);
  // One group over two nodes: eight blocks come in once and go on by NVLink, or eight to each GPU.
  load = link_load(15, {1, 16}, Exchange::gather, 16, 8);
  BOOST_TEST(load.nvlink == 7);
  BOOST_TEST(load.network == 1);
  load = link_load(15, {1, 16}, Exchange::all_to_all, 16, 8);
  BOOST_TEST(load.nvlink == 7);
  BOOST_TEST(load.network == 8);
  // Groups of three do not fill nodes of eight: ranks 6 and 7 wait for 8. Node 1 lacks two blocks
  // of 6, 7, 8, and one of 15, 16, 17 and of the other two of it.
  load = link_load(2, {1, 3}, Exchange::gather, 24, 8);
  BOOST_TEST(load.nvlink == 2);
  BOOST_TEST(load.network == (2 + 2) / 8.0);
  load = link_load(123, {1, 1}, Exchange::gather, 8, 8);
  BOOST_TEST(load.nvlink + load.network == 0);
}

BOOST_AUTO_TEST_CASE(links_carry_what_every_pair_of_ranks_sends) {
  for (const MeshShape& mesh : {MeshShape{1, 1, 8}, {4, 2, 2}, {2, 4, 3}, {3, 2, 5}, {12, 1, 1}})
    for (const int gpus_per_node : {1, 2, 3, 4, 8, 64})
      for (const Exchange exchange : {Exchange::gather, Exchange::all_to_all}) {
        const std::map<std::string, GroupLayout> layouts = {{"tp", {1, mesh.tp}},
                                                            {"cp", {mesh.tp, mesh.cp}},
                                                            {"dp", {mesh.cp * mesh.tp, mesh.dp}},
                                                            {"shard", {mesh.tp, mesh.dp * mesh.cp}},
                                                            {"world", {1, mesh.size()}}};
        for (const auto& [axis, layout] : layouts)
          BOOST_TEST_CONTEXT(axis << " of " << to_string(mesh) << ", " << gpus_per_node
                                  << " to a node") {
            const LinkLoad load =
                link_load(layout.size - 1, layout, exchange, mesh.size(), gpus_per_node);
            const LinkLoad expected = followed(groups_of(mesh, axis), exchange, gpus_per_node);
            BOOST_TEST(load.nvlink == expected.nvlink);
            BOOST_CHECK_CLOSE(load.network, expected.network, 1e-9);
          }
      }
}

BOOST_AUTO_TEST_CASE(links_work_at_the_same_time) {
  const Gpu gpu = toy_cluster(8).gpu;
  BOOST_TEST((LinkLoad{.nvlink = 3e5, .network = 2e4}.seconds(gpu)) == 3);
  BOOST_TEST((LinkLoad{.nvlink = 1e5, .network = 2e4}.seconds(gpu)) == 2);
}

// dp 2 x cp 2 x tp 2, two micro-batches of one sequence of 64 tokens on each dp rank, float32.
BOOST_AUTO_TEST_CASE(terms_of_a_step_by_hand) {
  const Planner planner({2, 2, 2});
  const StepPlan plan = planner.on_gpus(toy_cluster(4));
  BOOST_REQUIRE(plan.bound.has_value());
  const StepBound& bound = *plan.bound;

  // A layer: attention's products have 48·32·(2·2 + 2·1) parameters on a tp rank and its heads two
  // queries; a product of the feed-forward 48·48. The head sees 63 targets.
  const double attention = 2 * 64 * 9216.0 + 2 * 64 * 64 * 2 * 32.0, product = 2 * 64 * 2304.0;
  const double layers = 2 * (3 * attention + 3 * 3 * product), head = 6 * 63 * 128 * 48.0;
  const double flop = 2 * (layers + head) / 2;
  check_term(bound.compute, flop, "toy float32 peak", flop / 1e6);

  // Blocks of 16 tokens: 8 a layer, 4 for embedding and final norm; four floats a target, of which
  // rank 0's slice has 32.
  const double tp = 2 * ((2 * 8 + 4) * 16 * 48 * 4 + 32 * 16);
  check_term(bound.tp, tp, "NVLink", tp / 1e5);

  // A query and two key/value heads to the other rank, the output's head back; and again backward.
  const double cp = 2 * 2 * 2 * (3 + 1) * 32 * 32 * 4;
  check_term(bound.cp, cp, "NVLink", cp / 1e5);

  // Blocks of the units: table 128·48 / 4; layer (128·48 + 48·64 + 3·48·48 + 160) / 4; head. Four
  // ranks, two in each node: a node of four GPUs takes in two blocks of each of two groups.
  const double table = 1536, layer = 4072, last = 1548;
  const double gathered = table + 2 * 2 * layer + last, reduced = table + 2 * layer + last;
  const double block = 2 * 4 * (gathered + reduced);
  check_term(bound.units, 3 * block, "network", block / 1e4);

  // 8 bytes to the others of a shard group, a dp group and the world; 368 replicated gradients.
  const double world = 8 + 368 * 4;
  check_term(bound.sums, 3 * 8 + 8 + 7 * world, "network", (8 + 8 + world) / 1e4);

  // Masters, two moments: read and written; gradients: read.
  const double update = 7 * 4 * reduced;
  check_term(bound.update, update, "memory", update / 1e6);

  // The units take longer than what they hide behind.
  const double seconds = block / 1e4 + (16 + world) / 1e4 + update / 1e6;
  BOOST_TEST(bound.units.seconds > bound.compute.seconds + bound.tp.seconds + bound.cp.seconds);
  BOOST_CHECK_CLOSE(bound.seconds(), seconds, 1e-9);
  BOOST_TEST(bound.largest() == "units");
  BOOST_CHECK_CLOSE(bound.tokens_per_second, 4 * 64 / seconds / 8, 1e-9);
  const double parameters = 2 * (48 * 128 * 3 + 3 * 48 * 96) + 48 * 256;
  const double model_flop = 4 * (6 * parameters * 64 + 6 * 2 * 128 * 64.0 * 64);
  BOOST_CHECK_CLOSE(bound.mfu, model_flop / (1e6 * seconds * 8), 1e-9);
}

BOOST_AUTO_TEST_CASE(units_hide_behind_computing_and_exchanges_do_not) {
  const StepBound bound = *Planner({2, 2, 2}).on_gpus(toy_cluster(8)).bound;
  BOOST_TEST(bound.units.resource == "NVLink");
  BOOST_TEST(bound.units.seconds < bound.compute.seconds);
  BOOST_TEST(bound.largest() == "compute");
  BOOST_CHECK_CLOSE(bound.seconds(),
                    bound.compute.seconds + bound.tp.seconds + bound.cp.seconds +
                        bound.sums.seconds + bound.update.seconds,
                    1e-9);
}

BOOST_AUTO_TEST_CASE(ulysses_over_nodes_sends_each_gpu_its_own_heads) {
  const StepPlan plan = Planner({1, 4, 1}).on_gpus(toy_cluster(2));
  const auto sent = static_cast<double>(plan.traffic.cp.bytes);
  check_term(plan.bound->cp, sent, "network", sent * 2 / 3 / 1e4);
}

BOOST_AUTO_TEST_CASE(bfloat16_has_its_own_peak) {
  Planner planner({2, 1, 1});
  const StepBound slow = *planner.on_gpus(toy_cluster(8)).bound;
  planner.options.run.dtype = at::kBFloat16;
  const StepBound fast = *planner.on_gpus(toy_cluster(8)).bound;
  BOOST_TEST(fast.compute.resource == "toy bfloat16 peak");
  BOOST_CHECK_CLOSE(slow.compute.seconds, 2 * fast.compute.seconds, 1e-9);
  BOOST_TEST(fast.units.amount * 2 == slow.units.amount);
}

BOOST_AUTO_TEST_CASE(what_is_not_sharded_is_summed_when_all_blocks_are_through) {
  Planner planner({4, 1, 1});
  planner.options.run.memory.shard = ShardMode::none;
  StepPlan plan = planner.on_gpus(toy_cluster(4));
  BOOST_TEST(plan.bound->units.amount == 0);
  BOOST_TEST(plan.bound->sums.amount > static_cast<double>(plan.traffic.shard_group.bytes));
  planner.options.run.memory.shard = ShardMode::optimizer;
  plan = planner.on_gpus(toy_cluster(4));
  BOOST_TEST(plan.bound->units.amount == plan.traffic.shard_group.bytes - 3 * 8);
}

BOOST_AUTO_TEST_CASE(gpus_are_sent_what_ranks_are_sent) {
  for (const MeshShape& mesh : meshes_for(kModel, 8)) BOOST_TEST_CONTEXT(to_string(mesh)) {
      Planner planner(mesh);
      planner.lengths = {100, 20, 64, 7, 64, 90, 30, 128, 5};
      planner.options.run.micro_batch_tokens = 130;
      const GpuCluster cluster = toy_cluster(4);
      const StepPlan plan = planner.on_gpus(cluster);
      // Of all dp ranks the one that computes most.
      bool found = false;
      for (int rank = 0; rank < mesh.size(); rank += mesh.cp * mesh.tp) {
        const StepPlan other = planner.on_cpu(rank);
        BOOST_TEST(plan.flop == other.flop);
        const auto same = [](const auto& a, const auto& b) {
          return a.second.bytes == b.second.bytes && a.second.messages == b.second.messages;
        };
        const auto a = plan.traffic.by_axis(), b = other.traffic.by_axis();
        found = found || std::equal(a.begin(), a.end(), b.begin(), same);
        for (std::size_t i = 0; i < plan.memory.phases.size(); ++i)
          if (rank == 0 && plan.mesh.dp == 1)
            BOOST_TEST(plan.memory.phases[i].total() ==
                       other.memory.phases[i].total() - other.memory.phases[i][MemoryUse::fixed]);
      }
      BOOST_TEST(found);
    }
}

// The longest sequence goes to dp rank 0, and 20 more; 50 and 40 to dp rank 1.
BOOST_AUTO_TEST_CASE(the_busiest_rank_is_planned) {
  Planner planner({2, 1, 2});
  planner.options.run.micro_batch_tokens = 1000;
  planner.options.run.pad_limit = 2;
  planner.lengths = {60, 50, 40, 20};
  const BatchShape batch = planner.batch();
  BOOST_REQUIRE_EQUAL(batch[0].front().filled, 80);
  BOOST_REQUIRE_EQUAL(batch[1].front().filled, 90);
  const int64_t sent = planner.on_gpus(toy_cluster(8)).traffic.tp.bytes;
  BOOST_TEST(sent == planner.on_cpu(2).traffic.tp.bytes);
  BOOST_TEST(sent > planner.on_cpu(0).traffic.tp.bytes);
}
