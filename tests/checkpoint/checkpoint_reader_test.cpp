// Saved on one mesh, loaded on another: every element comes back, or the load is refused.
#include <ATen/ops/equal.h>

#include "archon/base/error.hpp"
#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/checkpoint/checkpoint_reader.hpp"
#include "archon/comm/agreement.hpp"
#include "archon/engine/run.hpp"
#include "archon/io/files.hpp"
#include "saved_run.hpp"

using namespace archon;
using namespace archon::test;
namespace fs = std::filesystem;

namespace {

using Tensors = std::map<std::string, at::Tensor>;

BOOST_GLOBAL_FIXTURE(LoadedPlugins);

int ranks() { return test_environment().world_size(); }

constexpr ShardMode kModes[] = {ShardMode::none, ShardMode::optimizer, ShardMode::full};

/// The first `size` ranks of the world; a null communicator on the others.
MpiComm first_ranks(int size) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm comm = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, rank < size ? 0 : MPI_UNDEFINED, rank, &comm);
  return MpiComm(comm);
}

Json load(const std::string& folder, SavedRun& run) {
  return load_checkpoint(folder, *run.loaded.model, run.optimizer.get(), run.loaded.spec->adapter,
                         run.mesh);
}

CheckpointResult save(SavedRun& run, const std::string& folder,
                      const CheckpointOptions& options = {}) {
  CheckpointWriter writer = run.writer(folder, options);
  const CheckpointResult result = writer.save(7, {{"text", "ü"}});
  BOOST_REQUIRE_EQUAL(result.failure, "");
  return result;
}

void check_equal(const Tensors& got, const Tensors& want) {
  BOOST_REQUIRE_EQUAL(got.size(), want.size());
  for (const auto& [path, tensor] : want)
    BOOST_CHECK_MESSAGE(at::equal(got.at(path), tensor), path);
}

void load_case(const std::string& model, const MeshShape& shape, ShardMode mode,
               const std::string& folder, const Tensors& want) {
  const MpiComm world = first_ranks(shape.size());
  if (world.get() == MPI_COMM_NULL) return;
  BOOST_TEST_MESSAGE("  loaded at " << to_string(shape) << ", mode " << static_cast<int>(mode));
  SavedRun run(model, shape, mode, OptimizerKind::adamw, world.get());
  run.fill(9);
  const Json trainer = load(folder, run);
  BOOST_CHECK_EQUAL(trainer.at("text"), "ü");
  BOOST_CHECK_EQUAL(run.optimizer->steps(), 1);
  check_equal(run.tensors(), want);
}

/// Some of all pairs of meshes, with other modes and layouts for each.
void reshard(const std::string& model) {
  const std::string path = SavedRun::folder_of(model);
  std::vector<MeshShape> to;
  for (int size = 1; size <= ranks(); size *= 2)
    for (const MeshShape& shape : meshes_for(path, size)) to.push_back(shape);
  const std::size_t step = ranks() < 8 ? 3 : 9;
  const std::vector<MeshShape> from = meshes_for(path, ranks());
  for (std::size_t i = 0; i < from.size(); ++i) {
    BOOST_TEST_MESSAGE(model << ", saved at " << to_string(from[i]));
    SavedRun run(model, from[i], kModes[i % 3]);
    const SharedFolder folder(run.mesh.world());
    const CheckpointOptions options{
        .layout = i % 2 == 0 ? CheckpointLayout::shards : CheckpointLayout::single,
        .compression = i % 4 == 0 ? 1 : 0};
    const std::string saved = save(run, folder.path(), options).folder;
    const Tensors want = run.tensors();
    for (std::size_t j = i % step; j < to.size(); j += step)
      load_case(model, to[j], kModes[(i + j / step) % 3], saved, want);
  }
}

std::string make_model(const std::string& folder, const Communicator& world, int vocab, int hidden) {
  const std::string config = folder + "/config.json", model = folder + "/model";
  check_on_rank_zero(world, [&] {
    Json json = read_json_file(golden_folder("q3_kv2_h8") + "/model/config.json");
    json["vocab_size"] = vocab;
    json["intermediate_size"] = 101;
    json["hidden_size"] = hidden;
    write_text_file(config, json.dump());
    run_init(config, 1, model, at::kFloat, int64_t{1} << 30);
  });
  return model;
}

/// On every rank, with the same words.
template <class... Words>
void check_refused(const std::string& folder, SavedRun& run, Words... words) {
  BOOST_CHECK_EXCEPTION(load(folder, run), InputError, [&](const InputError& error) {
    BOOST_TEST_INFO(error.what());
    return mentions(words...)(error);
  });
}

}  // namespace

BOOST_AUTO_TEST_CASE(tied_weights_come_back_on_every_mesh) { reshard("q2_tiny_tied"); }

BOOST_AUTO_TEST_CASE(few_key_heads_come_back_on_every_mesh) { reshard("q3_kv2_h8"); }

BOOST_AUTO_TEST_CASE(sizes_that_divide_by_nothing_come_back_on_every_mesh) {
  const Mesh mesh({ranks(), 1, 1}, MPI_COMM_WORLD);
  const SharedFolder folder(mesh.world());
  reshard(make_model(folder.path(), mesh.world(), 211, 37));
}

// Three rows and two of the head: with four blocks the norm before it is cut elsewhere on either tp
// rank.
BOOST_AUTO_TEST_CASE(replicated_tensors_come_back_where_tp_ranks_cut_them_elsewhere) {
  if (ranks() < 2) return;
  const MeshShape shape{ranks() / 2, 1, 2};
  const Mesh mesh(shape, MPI_COMM_WORLD);
  const SharedFolder folder(mesh.world());
  const std::string model = make_model(folder.path(), mesh.world(), 5, 64);
  for (const ShardMode mode : kModes)
    for (const auto layout : {CheckpointLayout::shards, CheckpointLayout::single}) {
      SavedRun run(model, shape, mode);
      const std::string saved = save(run, folder.path() + "/run", {.layout = layout}).folder;
      load_case(model, {1, 1, 1}, ShardMode::none, saved, run.tensors());
      run.mesh.world().barrier();
    }
}

BOOST_AUTO_TEST_CASE(a_checkpoint_is_a_model) {
  SavedRun run("q2_critic", meshes_for(golden_folder("q2_critic") + "/model", ranks()).back(),
               ShardMode::full);
  const SharedFolder folder(run.mesh.world());
  const std::string checkpoints = folder.path() + "/checkpoints";
  const std::string saved = save(run, checkpoints).folder;
  const Tensors want = run.tensors();
  for (const std::string& path : {folder.path(), checkpoints, checkpoints + "/latest", saved}) {
    const LoadedModel loaded = load_model(path, run.mesh, at::kFloat);
    BOOST_CHECK_EQUAL(loaded.folder, saved);
    const auto master = [](const Parameter& parameter) { return parameter.master(); };
    for_each_whole_tensor(*loaded.model, loaded.spec->adapter, run.mesh, master,
                          [&](const std::string& name, const at::Tensor& whole) {
                            BOOST_CHECK_MESSAGE(at::equal(whole, want.at("/parameters/" + name)),
                                                name);
                          });
  }
}

BOOST_AUTO_TEST_CASE(an_export_equals_the_folder_of_the_run) {
  SavedRun run("q2_tiny_tied", meshes_for(golden_folder("q2_tiny_tied") + "/model", ranks()).back(),
               ShardMode::full);
  const Communicator& world = run.mesh.world();
  const SharedFolder folder(world);
  save(run, folder.path() + "/checkpoints");
  const auto stored = run.loaded.model->config().stored_dtype;
  for (const auto& [dtype, limit] : {std::pair{stored, INT64_MAX}, std::pair{at::kHalf, 50000L}}) {
    const std::string hf = folder.path() + "/hf", exported = folder.path() + "/exported";
    save_hf_folder(*run.loaded.model, run.loaded.spec->adapter, run.mesh, run.loaded.hf, hf,
                   dtype, limit);
    if (world.rank() == 0) {
      run_export(folder.path(), exported, dtype == stored ? std::nullopt : std::optional(dtype),
                 limit);
      std::size_t files = 0;
      for (const auto& item : fs::directory_iterator(hf)) {
        const std::string name = item.path().filename().string();
        BOOST_CHECK_MESSAGE(read_bytes(item.path().string()) == read_bytes(exported + "/" + name),
                            name);
        ++files;
      }
      for ([[maybe_unused]] const auto& item : fs::directory_iterator(exported)) --files;
      BOOST_CHECK_EQUAL(files, 0u);
    }
    world.barrier();
  }
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_refused_on_every_rank) {
  const MeshShape shape = {ranks(), 1, 1};
  SavedRun run("q3_kv2_h8", shape, ShardMode::full);
  const SharedFolder folder(run.mesh.world());
  const std::string saved = save(run, folder.path() + "/a").folder;
  SavedRun other("q2_tiny_tied", shape, ShardMode::full);
  check_refused(saved, other, saved, "do not fit the model", "unexpected", "missing",
                "of another shape",
                "/parameters/model.embed_tokens.weight [200, 48], the model needs [256, 64]");
  SavedRun sgd("q3_kv2_h8", shape, ShardMode::full, OptimizerKind::sgd);
  check_refused(saved, sgd, saved, "exp_avg, exp_avg_sq", "no optimizer state", "--optimizer");
  const std::string plain = save(sgd, folder.path() + "/b").folder;
  check_refused(plain, run, plain, "no optimizer state", "exp_avg, exp_avg_sq");
  load(plain, sgd);
  check_refused(run.loaded.folder, run, "manifest.json");
  check_refused(folder.path() + "/absent", run, "absent/manifest.json", "No such file");
}

BOOST_AUTO_TEST_CASE(damage_that_one_rank_meets_is_told_by_all) {
  SavedRun run("q3_kv2_h8", {ranks(), 1, 1}, ShardMode::full);
  const Communicator& world = run.mesh.world();
  const SharedFolder folder(world);
  const std::string saved = save(run, folder.path()).folder;
  const std::string name = fmt::format("shard-{:05}.h5", ranks() - 1), shard = saved + "/" + name;
  if (world.rank() == 0) {
    std::string bytes = read_bytes(shard);
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
    write_bytes(shard, bytes);
  }
  world.barrier();
  check_refused(saved, run, shard, "is damaged", "do not fit their checksum");
  world.barrier();
  if (world.rank() == 0) fs::resize_file(shard, fs::file_size(shard) - 1);
  world.barrier();
  check_refused(saved, run, name, "bytes");
  world.barrier();
  if (world.rank() == 0) fs::remove(shard);
  world.barrier();
  check_refused(saved, run, name, "No such file");
}
