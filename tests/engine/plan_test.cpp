// What `archon plan` and docs/performance.md say of a step, against what a step sends.
#include "archon/engine/plan.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/record_function.h>

#include <boost/test/unit_test.hpp>
#include <fstream>
#include <map>
#include <numeric>

#include "archon/engine/batcher.hpp"
#include "archon/engine/run.hpp"
#include "archon/engine/train_step.hpp"
#include "archon/io/hdf5.hpp"
#include "archon/io/json.hpp"
#include "documented_traffic.hpp"
#include "support/model_cases.hpp"
#include "support/mpi_main.hpp"
#include "support/train_afresh.hpp"

using namespace archon;
using namespace archon::test;

namespace {

const std::vector<int64_t> kLengths = {30, 7, 1, 19, 12, 25};

/// A file of sequences of these lengths, the same for every rank. Collective.
std::string write_data(const std::string& name, const std::vector<int64_t>& lengths) {
  const std::string path = work_folder("plan") + "/" + name;
  if (test_environment().world_rank() == 0) {
    std::vector<int64_t> offsets = {0};
    for (const int64_t length : lengths) offsets.push_back(offsets.back() + length);
    h5::File file = h5::File::create(path, "archon.tokens", 1);
    file.write("/input_ids", at::arange(offsets.back(), at::kLong).remainder(100));
    file.write("/cu_seqlens", at::tensor(offsets));
    for (const char* field : {"/old_values", "/returns"})
      file.write(field, at::ones({offsets.back()}));
    file.flush();
  }
  MPI_Barrier(MPI_COMM_WORLD);
  return path;
}

TrainOptions options_for(const std::string& model, const MeshShape& shape,
                         const MemoryOptions& memory) {
  TrainOptions options;
  options.run.model = golden_folder(model) + "/model";
  options.run.mesh = shape;
  options.run.micro_batch_tokens = 40;
  options.run.memory = memory;
  options.output = work_folder("plan") + "/run";
  options.steps = 1;
  options.batch_sequences = 0;
  options.shuffle = false;
  options.save_hf = false;
  return options;
}

/// A model as its config describes it, and a batch on the mesh of the options.
struct Described {
  explicit Described(const TrainOptions& options, const std::vector<int64_t>& lengths = kLengths)
      : hf(HfConfig::read(options.run.model)),
        spec(ModelRegistry::instance().find(hf.model_type())),
        config(spec.parse_config(hf)),
        batch(shape_of_batch(lengths, options.run, config, options.run.mesh)) {}
  HfConfig hf;
  const ModelSpec& spec;
  DecoderConfig config;
  BatchShape batch;
};

using SentByAxis = std::map<std::string, PlannedTraffic>;

SentByAxis planned(const Described& model, const TrainOptions& options, int rank) {
  SentByAxis sent;
  const StepPlan plan = plan_step(model.spec, model.config, options, model.batch, rank);
  for (const auto& [axis, traffic] : plan.traffic.by_axis())
    sent[axis == "shard_group" ? "shard" : axis] = traffic;
  return sent;
}

/// metrics.jsonl has the figures of the rank with most, axis by axis.
void keep_largest(SentByAxis& largest, const SentByAxis& sent) {
  for (const auto& [axis, traffic] : sent) {
    largest[axis].bytes = std::max(largest[axis].bytes, traffic.bytes);
    largest[axis].messages = std::max(largest[axis].messages, traffic.messages);
  }
}

void check_sent(const Json& row, const SentByAxis& expected, const char* source) {
  for (const auto& [axis, sent] : expected) BOOST_TEST_CONTEXT(source << ", " << axis) {
      BOOST_TEST(row.at(axis + "_bytes").get<int64_t>() == sent.bytes);
      BOOST_TEST(row.at(axis + "_messages").get<int64_t>() == sent.messages);
    }
}

void check_traffic(const TrainOptions& options) {
  train_afresh(options);
  if (test_environment().world_rank() != 0) return;
  std::ifstream lines(options.output + "/metrics.jsonl");
  std::string line;
  BOOST_REQUIRE(std::getline(lines, line));
  const Described model(options);
  SentByAxis by_plan, by_page;
  for (int rank = 0; rank < options.run.mesh.size(); ++rank) {
    keep_largest(by_plan, planned(model, options, rank));
    keep_largest(by_page, documented_traffic(model.config, options, model.batch, rank));
  }
  const Json row = Json::parse(line);
  check_sent(row, by_plan, "archon plan");
  check_sent(row, by_page, "docs/performance.md");
}

using Mode = ActivationCheckpointing::Mode;

struct Setting {
  std::string model;
  MemoryOptions memory;
  at::ScalarType dtype = at::kFloat;
  int64_t micro_batch_tokens = 40;
};

std::vector<Setting> settings() {
  const auto recompute = [](Mode mode, int64_t every = 1, int64_t tile = 0) {
    return ActivationOptions{{mode, every}, tile};
  };
  return {
      {"q2_tiny_tied", {}},
      {"q2_tiny_tied", {.activations = recompute(Mode::full)}},
      {"q2_tiny_tied",
       {.reshard_after_forward = false, .activations = recompute(Mode::selective, 1, 3)},
       at::kBFloat16},
      {"q2_tiny_tied", {.shard = ShardMode::optimizer, .activations = recompute(Mode::every, 2)}},
      {"q2_tiny_tied", {.shard = ShardMode::none, .activations = recompute(Mode::none, 1, 5)}},
      {"q3_kv2_h8", {}, at::kBFloat16},
      // All in one micro-batch: its targets take two chunks of logits.
      {"q3_kv2_h8", {.activations = recompute(Mode::full, 1, 4)}, at::kFloat, 200},
      {"q3_kv2_h8", {.activations = recompute(Mode::selective)}},
      {"q3_kv2_h8", {.reshard_after_forward = false, .activations = {}}},
      {"q3_kv2_h8", {.shard = ShardMode::optimizer, .activations = recompute(Mode::every, 4)}},
      {"q3_kv2_h8", {.shard = ShardMode::none, .activations = {}}},
      {"q2_critic", {.activations = recompute(Mode::selective)}},
  };
}

/// FLOP of every matrix product while it lives.
class ProductCounter {
 public:
  ProductCounter() {
    flop_ = 0;
    handle_ = at::addGlobalCallback(at::RecordFunctionCallback(&count).needsInputs(true));
  }
  ~ProductCounter() { at::removeCallback(handle_); }
  ProductCounter(const ProductCounter&) = delete;
  ProductCounter& operator=(const ProductCounter&) = delete;
  double flop() const { return flop_; }

 private:
  static std::unique_ptr<at::ObserverContext> count(const at::RecordFunction& function) {
    const std::string name = function.name();
    if (name != "aten::mm" && name != "mkldnn::_linear_pointwise" &&
        name != "archon::multiply_in_tiles")
      return nullptr;
    const at::Tensor a = function.inputs()[0].toTensor(), b = function.inputs()[1].toTensor();
    flop_ += 2.0 * static_cast<double>(a.numel() * (b.numel() / a.size(1)));
    return nullptr;
  }
  static inline double flop_ = 0;
  at::CallbackHandle handle_ = 0;
};

/// What all ranks multiply in a step, attention apart.
double products_of_a_step(const TrainOptions& options) {
  const Mesh mesh(options.run.mesh, MPI_COMM_WORLD);
  const LoadedModel loaded =
      load_model(options.run.model, mesh, options.run.dtype, options.run.memory);
  const Batcher batcher(options.run, options.run.data, loaded.model->config(), mesh);
  std::vector<int64_t> sequences(batcher.dataset().size());
  std::iota(sequences.begin(), sequences.end(), 0);
  const auto optimizer = make_optimizer(options, *loaded.model, loaded.spec->adapter);
  const ProductCounter counter;
  train_step(options, Objective(options.loss), loaded, mesh, batcher, *optimizer, sequences, 1e-3,
             nullptr);
  return mesh.world().all_reduce(counter.flop());
}

/// The same on paper: what is planned but for causal attention, half of n² pairs at a time.
double planned_products(const Described& model, const TrainOptions& options) {
  double flop = 0;
  for (int rank = 0; rank < options.run.mesh.size(); ++rank)
    flop += plan_step(model.spec, model.config, options, model.batch, rank).flop;
  const auto& checkpointing = options.run.memory.activations.checkpointing;
  const double width = static_cast<double>(model.config.num_heads * model.config.head_dim);
  for (const MicroBatchShape& batch : model.batch.front())
    for (int64_t layer = 0; layer < model.config.num_layers; ++layer)
      flop -= (checkpointing.of_layer(layer) == Recompute::full ? 8 : 6) * width *
              batch.squared_lengths;
  return flop;
}

}  // namespace

BOOST_TEST_GLOBAL_FIXTURE(LoadedPlugins);

BOOST_AUTO_TEST_CASE(a_step_sends_what_was_planned) {
  const std::string data = write_data("data.h5", kLengths);
  for (const Setting& setting : settings())
    for (const MeshShape& shape :
         meshes_for(golden_folder(setting.model) + "/model", test_environment().world_size())) {
      TrainOptions options = options_for(setting.model, shape, setting.memory);
      options.run.data = data;
      options.run.dtype = setting.dtype;
      options.run.micro_batch_tokens = setting.micro_batch_tokens;
      if (setting.model == "q2_critic") options.loss.kind = LossKind::critic;
      const auto& checkpointing = setting.memory.activations.checkpointing;
      BOOST_TEST_CONTEXT(setting.model << " on " << to_string(shape) << ", shard "
                                       << static_cast<int>(setting.memory.shard)
                                       << ", checkpointing "
                                       << static_cast<int>(checkpointing.mode) << " every "
                                       << checkpointing.every) {
        check_traffic(options);
      }
    }
}

BOOST_AUTO_TEST_CASE(a_step_multiplies_what_was_planned) {
  const std::string data = write_data("products.h5", kLengths);
  for (const Setting& setting : settings())
    for (const MeshShape& shape :
         meshes_for(golden_folder(setting.model) + "/model", test_environment().world_size())) {
      // Not every dp rank has as much to do; a critic's head is no matrix product.
      if (shape.dp > 1 || setting.model == "q2_critic") continue;
      TrainOptions options = options_for(setting.model, shape, setting.memory);
      options.run.data = data;
      options.run.dtype = setting.dtype;
      options.run.micro_batch_tokens = setting.micro_batch_tokens;
      const auto& activations = setting.memory.activations;
      BOOST_TEST_CONTEXT(setting.model << " on " << to_string(shape) << ", checkpointing "
                                       << static_cast<int>(activations.checkpointing.mode)
                                       << ", tiles of " << activations.mlp_tile_tokens) {
        BOOST_CHECK_CLOSE(planned_products(Described(options), options),
                          products_of_a_step(options), 1e-9);
      }
    }
}

BOOST_AUTO_TEST_CASE(a_rank_sends_less_for_ulysses_the_more_ranks_there_are) {
  std::map<int, int64_t> bytes;
  for (const int cp : {1, 2, 4, 8}) {
    const TrainOptions options = options_for("q3_kv2_h8", {1, cp, 1}, {});
    const Described model(options);
    bytes[cp] = planned(model, options, 0).at("cp").bytes;
    BOOST_TEST(documented_traffic(model.config, options, model.batch, 0).at("cp").bytes ==
               bytes[cp]);
  }
  BOOST_TEST(bytes[1] == 0);
  BOOST_TEST(bytes[4] < bytes[2]);
  BOOST_TEST(bytes[8] < bytes[4]);
}

// By tokens the sequence of 1000 would be joined by one of 500; attention makes it dearer than
// three of these.
BOOST_AUTO_TEST_CASE(ranks_share_out_what_sequences_cost) {
  const std::vector<int64_t> lengths = {500, 1000, 500, 500};
  TrainOptions options = options_for("q3_tiny", {test_environment().world_size(), 1, 1}, {});
  options.run.data = write_data("cost.h5", lengths);
  if (options.run.mesh.dp != 2) return;
  const Mesh mesh(options.run.mesh, MPI_COMM_WORLD);
  const Batcher batcher(options.run, options.run.data, Described(options).config, mesh);
  std::vector<int64_t> mine;
  for (const PackedBatch& batch : batcher.load({0, 1, 2, 3}))
    mine.insert(mine.end(), batch.sequences.begin(), batch.sequences.end());
  const std::vector<int64_t> expected[] = {{1}, {0, 2, 3}};
  BOOST_TEST(mine == expected[mesh.dp_rank()]);
}

// On the CPU the gradients of keys and values lie in blocks of 64 tokens.
BOOST_AUTO_TEST_CASE(short_sequences_need_memory_for_what_they_are_padded_with) {
  const TrainOptions options = options_for("q3_tiny", {1, 1, 1}, {});
  const Described model(options);
  const auto most = [&](const std::vector<int64_t>& lengths) {
    const BatchShape batch = shape_of_batch(lengths, options.run, model.config, options.run.mesh);
    int64_t bytes = 0;
    for (const MemoryPhase& phase : plan_step(model.spec, model.config, options, batch).memory.phases)
      if (phase.name.starts_with("backward of layer")) bytes = phase.total();
    return bytes;
  };
  const int64_t padding = 63 * 64 * 2 * model.config.num_heads * model.config.head_dim * 4;
  BOOST_TEST(most(std::vector<int64_t>(64, 1)) > most({64}) + padding / 2);
}

BOOST_AUTO_TEST_CASE(sharding_and_recomputing_need_less_memory) {
  const auto peak = [](ShardMode shard, Mode mode) {
    const TrainOptions options = options_for(
        "q3_tiny", {4, 1, 1}, {.shard = shard, .activations = {.checkpointing = {mode, 2}}});
    const Described model(options, std::vector<int64_t>(64, 64));
    return plan_step(model.spec, model.config, options, model.batch).memory.peak().total();
  };
  BOOST_TEST(peak(ShardMode::full, Mode::none) < peak(ShardMode::optimizer, Mode::none));
  BOOST_TEST(peak(ShardMode::optimizer, Mode::none) < peak(ShardMode::none, Mode::none));
  BOOST_TEST(peak(ShardMode::full, Mode::selective) < peak(ShardMode::full, Mode::none));
  BOOST_TEST(peak(ShardMode::full, Mode::full) < peak(ShardMode::full, Mode::selective));
}
