// What `archon plan` says of a step, against what a step sends.
#include "archon/engine/plan.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>

#include <boost/test/unit_test.hpp>
#include <fstream>
#include <map>

#include "archon/engine/run.hpp"
#include "archon/io/hdf5.hpp"
#include "archon/io/json.hpp"
#include "support/model_cases.hpp"
#include "support/mpi_main.hpp"

using namespace archon;
using namespace archon::test;

namespace {

const std::vector<int64_t> kLengths = {30, 7, 1, 19, 12, 25};

std::string write_data() {
  const std::string path = work_folder("plan") + "/data.h5";
  static bool written = false;
  if (!written && test_environment().world_rank() == 0) {
    std::vector<int64_t> offsets = {0};
    for (const int64_t length : kLengths) offsets.push_back(offsets.back() + length);
    h5::File file = h5::File::create(path, "archon.tokens", 1);
    file.write("/input_ids", at::arange(offsets.back(), at::kLong));
    file.write("/cu_seqlens", at::tensor(offsets));
    file.flush();
  }
  if (!written) MPI_Barrier(MPI_COMM_WORLD);
  written = true;
  return path;
}

TrainOptions options_for(const std::string& model, const MeshShape& shape, ShardMode shard,
                         ActivationCheckpointing::Mode mode) {
  TrainOptions options;
  options.run.model = golden_folder(model) + "/model";
  options.run.data = write_data();
  options.run.mesh = shape;
  options.run.micro_batch_tokens = 40;
  options.run.memory.shard = shard;
  options.run.memory.activations.checkpointing = {mode, 2};
  options.output = work_folder("plan") + "/run";
  options.steps = 1;
  options.batch_sequences = 0;
  options.save_hf = false;
  return options;
}

/// The largest rank's figures, as metrics.jsonl has them.
std::map<std::string, PlannedTraffic> planned(const TrainOptions& options) {
  const HfConfig hf = HfConfig::read(options.run.model);
  const ModelSpec& spec = ModelRegistry::instance().find(hf.model_type());
  const DecoderConfig config = spec.parse_config(hf);
  const BatchShape batch = shape_of_batch(kLengths, options.run, config, options.run.mesh);
  std::map<std::string, PlannedTraffic> largest;
  for (int rank = 0; rank < options.run.mesh.size(); ++rank)
    for (const auto& [axis, sent] : plan_step(spec, config, options, batch, rank).traffic.by_axis()) {
      PlannedTraffic& most = largest[axis == "shard_group" ? "shard" : axis];
      most.bytes = std::max(most.bytes, sent.bytes);
      most.messages = std::max(most.messages, sent.messages);
    }
  return largest;
}

void check_traffic(const TrainOptions& options) {
  run_train(options, test_environment());
  if (test_environment().world_rank() != 0) return;
  std::ifstream lines(options.output + "/metrics.jsonl");
  std::string line;
  BOOST_REQUIRE(std::getline(lines, line));
  const Json row = Json::parse(line);
  for (const auto& [axis, sent] : planned(options))
    BOOST_TEST_CONTEXT(axis) {
      BOOST_TEST(row.at(axis + "_bytes").get<int64_t>() == sent.bytes);
      BOOST_TEST(row.at(axis + "_messages").get<int64_t>() == sent.messages);
    }
}

}  // namespace

BOOST_TEST_GLOBAL_FIXTURE(LoadedPlugins);

BOOST_AUTO_TEST_CASE(a_step_sends_what_was_planned) {
  using Mode = ActivationCheckpointing::Mode;
  const std::pair<ShardMode, Mode> settings[] = {{ShardMode::full, Mode::none},
                                                 {ShardMode::full, Mode::full},
                                                 {ShardMode::full, Mode::selective},
                                                 {ShardMode::optimizer, Mode::every},
                                                 {ShardMode::none, Mode::none}};
  for (const std::string model : {"q2_tiny_tied", "q3_kv2_h8"})
    for (const MeshShape& shape :
         meshes_for(golden_folder(model) + "/model", test_environment().world_size()))
      for (const auto& [shard, mode] : settings)
        BOOST_TEST_CONTEXT(model << " on " << to_string(shape) << ", shard "
                                 << static_cast<int>(shard) << ", checkpointing "
                                 << static_cast<int>(mode)) {
          check_traffic(options_for(model, shape, shard, mode));
        }
}

BOOST_AUTO_TEST_CASE(sharding_and_recomputing_need_less_memory) {
  const auto peak = [](ShardMode shard, ActivationCheckpointing::Mode mode) {
    TrainOptions options = options_for("q3_tiny", {4, 1, 1}, shard, mode);
    const HfConfig hf = HfConfig::read(options.run.model);
    const ModelSpec& spec = ModelRegistry::instance().find(hf.model_type());
    const DecoderConfig config = spec.parse_config(hf);
    return plan_step(spec, config, options,
                     shape_of_batch(std::vector<int64_t>(64, 64), options.run, config,
                                    options.run.mesh))
        .memory.peak()
        .total();
  };
  using Mode = ActivationCheckpointing::Mode;
  BOOST_TEST(peak(ShardMode::full, Mode::none) < peak(ShardMode::optimizer, Mode::none));
  BOOST_TEST(peak(ShardMode::optimizer, Mode::none) < peak(ShardMode::none, Mode::none));
  BOOST_TEST(peak(ShardMode::full, Mode::selective) < peak(ShardMode::full, Mode::none));
  BOOST_TEST(peak(ShardMode::full, Mode::full) < peak(ShardMode::full, Mode::selective));
}
