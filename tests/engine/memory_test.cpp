// What a rank holds with --shard full: on paper, and in the tensors it really allocates.
#include <boost/test/unit_test.hpp>

#include <filesystem>
#include <map>
#include <numeric>

#include "archon/engine/plan.hpp"
#include "archon/engine/run.hpp"
#include "archon/engine/train_step.hpp"
#include "archon/model/state_dict.hpp"
#include "support/counting_allocator.hpp"
#include "support/model_cases.hpp"
#include "support/mpi_main.hpp"

using namespace archon;
using namespace archon::test;

namespace {

constexpr int64_t kFloat = sizeof(float);
constexpr int64_t kMasterGradientMoments = 4 * kFloat;  // of a parameter, with AdamW

const std::string kMedium =
    std::string(std::getenv("ARCHON_TEST_SOURCE_DIR")) + "/benchmarks/models/medium.json";

/// Elements of the units of a model on one tp rank, and of what every tp rank has a copy of.
struct Elements {
  explicit Elements(Model& model) {
    for (const ParameterUnit* unit : model.units()) {
      units.push_back(0);
      for (const Parameter* parameter : unit->parameters()) {
        units.back() += parameter->local_numel();
        if (parameter->placement() == TpPlacement::replicated)
          replicated += parameter->local_numel();
      }
    }
  }
  int64_t total() const { return std::accumulate(units.begin(), units.end(), int64_t{0}); }
  int64_t largest_unit() const { return *std::max_element(units.begin(), units.end()); }
  int64_t two_largest_units() const {
    std::vector<int64_t> sorted = units;
    std::sort(sorted.rbegin(), sorted.rend());
    return sorted[0] + (sorted.size() > 1 ? sorted[1] : 0);
  }
  std::vector<int64_t> units;
  int64_t replicated = 0;
};

/// Masters, gradients and moments: 16 bytes for each of a rank's 1 / (dp·cp·tp) of the parameters
/// (tp's share, cut over dp and cp, rounded up once for each unit), and whole gradients of what tp
/// replicates.
int64_t most_bytes_between_steps(const Elements& elements, const MeshShape& mesh) {
  int64_t owned = 0;
  const int64_t ranks = mesh.dp * mesh.cp;
  for (const int64_t unit : elements.units) owned += (unit + ranks - 1) / ranks;
  return kMasterGradientMoments * owned + kFloat * elements.replicated;
}

TrainOptions options_for(const std::string& model, const MeshShape& mesh, at::ScalarType dtype) {
  TrainOptions options;
  options.run.model = model;
  options.run.mesh = mesh;
  options.run.dtype = dtype;
  options.run.micro_batch_tokens = 64;
  return options;
}

/// The model of a rank of a mesh, placed, without memory.
struct PlacedModel {
  PlacedModel(const ModelSpec& spec, const DecoderConfig& config, const MeshShape& shape, int rank)
      : mesh(Mesh::shape_only(shape, rank)),
        sharding({.mode = ShardMode::full}, mesh.shard_group()),
        model(spec.make_model(config)) {
    spec.apply_tp(*model, mesh.tp());
    spec.apply_cp(*model, mesh.cp(), mesh.tp().size());
    for (ParameterUnit* unit : model->units()) unit->place(sharding);
  }
  Mesh mesh;
  Sharding sharding;
  std::unique_ptr<Model> model;
};

/// Beside masters, gradients and moments a rank has two gathered units; a unit's unsharded gradients
/// coming in; and those of the unit before on their way: sent, received, and their sum.
void check_plan(const std::string& model, const MeshShape& mesh, at::ScalarType dtype) {
  const TrainOptions options = options_for(model, mesh, dtype);
  const HfConfig hf = HfConfig::read(model);
  const ModelSpec& spec = ModelRegistry::instance().find(hf.model_type());
  const DecoderConfig config = spec.parse_config(hf);
  const BatchShape batch = shape_of_batch(std::vector<int64_t>(16, 64), options.run, config, mesh);
  for (int rank = 0; rank < mesh.size(); ++rank) {
    const PlacedModel placed(spec, config, mesh, rank);
    const Elements elements(*placed.model);
    const int64_t e = dtype == at::kFloat ? 4 : 2;
    const int64_t unit = elements.largest_unit(), ranks = mesh.dp * mesh.cp;
    const int64_t block = (unit + ranks - 1) / ranks;
    for (const MemoryPhase& phase : plan_step(spec, config, options, batch, rank).memory.phases)
      BOOST_TEST_CONTEXT(phase.name << " on rank " << rank) {
        BOOST_TEST(phase[MemoryUse::masters] + phase[MemoryUse::values] +
                       phase[MemoryUse::gradients] + phase[MemoryUse::optimizer] <=
                   most_bytes_between_steps(elements, mesh));
        BOOST_TEST(phase[MemoryUse::gathered] <= elements.two_largest_units() * e);
        BOOST_TEST(phase[MemoryUse::exchange] <= (3 * ranks * e + kFloat) * block);
      }
  }
}

/// Values that are there for the moment, and the most there ever were, seen at each layer's input
/// in forward and in backward.
class GatheredValues : public ActivationObserver {
 public:
  explicit GatheredValues(Model& model) : model_(model) {}
  void on_hidden(int64_t, const at::Tensor& hidden) override {
    look();
    hidden.register_hook([this](const at::Tensor&) { look(); });
  }
  void on_final_norm(const at::Tensor&) override { look(); }
  int64_t most_units() const { return most_units_; }
  int looks() const { return looks_; }

 private:
  void look() {
    int64_t units = 0;
    for (const ParameterUnit* unit : model_.units())
      units += unit->parameters().front()->value().storage().nbytes() > 0 ? 1 : 0;
    most_units_ = std::max(most_units_, units);
    ++looks_;
  }
  Model& model_;
  int64_t most_units_ = 0;
  int looks_ = 0;
};

void check_step(const std::string& name, const MeshShape& shape, at::ScalarType dtype) {
  TrainOptions options = options_for(golden_folder(name) + "/model", shape, dtype);
  options.run.data = golden_folder(name) + "/batch.h5";
  CountingAllocator& memory = CountingAllocator::install();
  const Mesh mesh(shape, MPI_COMM_WORLD);
  const HfConfig hf = HfConfig::read(options.run.model);
  const ModelSpec& spec = ModelRegistry::instance().find(hf.model_type());
  const Batcher batcher(options.run, options.run.data, spec.parse_config(hf), mesh);
  std::vector<int64_t> sequences(batcher.dataset().size());
  std::iota(sequences.begin(), sequences.end(), 0);
  batcher.load(sequences);  // what it keeps of the file is no part of the model
  const int64_t before = memory.bytes();
  const LoadedModel loaded = load_model(options.run.model, mesh, dtype, options.run.memory);
  const auto optimizer = make_optimizer(options, *loaded.model, loaded.spec->adapter);
  for (int step = 0; step < 2; ++step)
    train_step(options, Objective(options.loss), loaded, mesh, batcher, *optimizer, sequences, 1e-3,
               nullptr);
  const Elements elements(*loaded.model);
  // A shard group of one rank keeps what it computes with.
  const bool keeps_values = mesh.shard_group().size() == 1 && dtype == at::kBFloat16;
  BOOST_TEST(memory.bytes() - before <= most_bytes_between_steps(elements, shape) +
                                            (keeps_values ? 2 * elements.total() : 0));

  GatheredValues gathered(*loaded.model);
  for (ParameterUnit* unit : loaded.model->units()) unit->clear_gradients();
  for (const PackedBatch& batch : batcher.load(sequences))
    Objective{}(*loaded.model, mesh, batch, 1.0, &gathered).loss.backward();
  loaded.model->sharding().finish_reduction();
  BOOST_TEST(gathered.looks() > 2 * loaded.model->config().num_layers);
  if (mesh.shard_group().size() > 1) BOOST_TEST(gathered.most_units() <= 2);
}

/// The most elements of one tensor of the model that a rank may have to copy: its tp share.
int64_t largest_slice(Model& model) {
  int64_t largest = 0;
  for (const Parameter* parameter : std::as_const(model).parameters())
    for (std::size_t part = 0; part < parameter->parts().size(); ++part)
      largest = std::max(largest, parameter->part_elements(part).size());
  return largest;
}

}  // namespace

BOOST_TEST_GLOBAL_FIXTURE(LoadedPlugins);

BOOST_AUTO_TEST_CASE(plans_keep_to_the_share_of_a_rank) {
  if (test_environment().world_size() > 1) return;  // nothing is sent
  for (const std::string& model : {golden_folder("q2_tiny_tied") + "/model",
                                   golden_folder("q3_kv2_h8") + "/model", kMedium})
    for (const int ranks : {2, 4, 8})
      for (const MeshShape& mesh : meshes_for(model, ranks))
        for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
          if (mesh.dp * mesh.cp > 1)
            BOOST_TEST_CONTEXT(model << " on " << to_string(mesh) << " in " << dtype) {
              check_plan(model, mesh, dtype);
            }
}

BOOST_AUTO_TEST_CASE(uneven_sizes_waste_less_than_an_element_per_rank_and_unit) {
  const HfConfig hf = HfConfig::read(golden_folder("q2_tiny_tied") + "/model");
  const ModelSpec& spec = ModelRegistry::instance().find(hf.model_type());
  DecoderConfig config = spec.parse_config(hf);
  config.vocab_size = 251;
  config.intermediate_size = 127;
  config.hidden_size = 61;
  for (const int ranks : {2, 3, 4, 6, 7, 8})
    for (const MeshShape& mesh : all_meshes(ranks)) {
      if (config.num_kv_heads % mesh.tp != 0 || config.num_heads / mesh.tp % mesh.cp != 0) continue;
      const PlacedModel placed(spec, config, mesh, ranks - 1);
      const Elements elements(*placed.model);
      const auto units = placed.model->units();
      for (std::size_t i = 0; i < units.size(); ++i) {
        BOOST_TEST(units[i]->elements() >= elements.units[i]);
        BOOST_TEST(units[i]->elements() < elements.units[i] + mesh.dp * mesh.cp);
      }
    }
}

BOOST_AUTO_TEST_CASE(tensors_of_a_step_keep_to_the_share_of_a_rank) {
  for (const std::string name : {"q2_tiny_tied", "q3_kv2_h8"})
    for (const MeshShape& shape :
         meshes_for(golden_folder(name) + "/model", test_environment().world_size()))
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
        BOOST_TEST_CONTEXT(name << " on " << to_string(shape) << " in " << dtype) {
          check_step(name, shape, dtype);
        }
}

BOOST_AUTO_TEST_CASE(weights_are_loaded_straight_into_shards) {
  const std::string folder = work_folder("memory");
  CountingAllocator& memory = CountingAllocator::install();
  if (test_environment().world_rank() == 0) {
    std::filesystem::remove(folder + "/model.safetensors");  // of an earlier test
    run_init(golden_folder("q3_tiny") + "/model/config.json", 1, folder, at::kFloat, 1 << 30);
  }
  MPI_Barrier(MPI_COMM_WORLD);
  const HfConfig hf = HfConfig::read(folder);
  const ModelSpec& spec = ModelRegistry::instance().find(hf.model_type());
  for (const MeshShape& shape : meshes_for(folder, test_environment().world_size()))
    BOOST_TEST_CONTEXT(to_string(shape)) {
      const Mesh mesh(shape, MPI_COMM_WORLD);
      const int64_t before = memory.bytes();
      const auto model = spec.make_model(spec.parse_config(hf));
      spec.apply_tp(*model, mesh.tp());
      spec.apply_cp(*model, mesh.cp(), shape.tp);
      model->allocate({.mode = ShardMode::full}, mesh.shard_group());
      int64_t shard = 0;
      for (const ParameterUnit* unit : model->units()) shard += unit->block() * kFloat;
      BOOST_TEST(memory.bytes() - before == shard);
      memory.restart_peak();
      load_weights(*model, spec.adapter, WeightFolder(folder));
      BOOST_TEST(memory.bytes() - before == shard);
      BOOST_TEST(memory.peak() - before <= shard + largest_slice(*model) * kFloat);
    }
}
