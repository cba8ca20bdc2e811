// What a save leaves on the disk, from every mesh.
#include <ATen/ops/equal.h>
#include <sched.h>
#include <sys/mount.h>

#include <csignal>
#include <optional>
#include <set>

#include "archon/base/checksum.hpp"
#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/io/hdf5.hpp"
#include "archon/io/json.hpp"
#include "saved_run.hpp"
#include "support/file_size_limit.hpp"

using namespace archon;
using namespace archon::test;
namespace fs = std::filesystem;

namespace {

constexpr int64_t kStep = 120, kBlock = int64_t{1} << 20;
const std::string kModel = "q2_tiny_tied";
const Json kTrainer = {{"epoch", 3}, {"text", "ü\n"}};

BOOST_GLOBAL_FIXTURE(LoadedPlugins);

int ranks() { return test_environment().world_size(); }

std::vector<std::string> shards_of(const std::string& folder) {
  std::vector<std::string> shards;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().filename().string().starts_with("shard-")) shards.push_back(entry.path());
  return shards;
}

void check_tensors(const h5::File& index, const std::map<std::string, at::Tensor>& want) {
  std::size_t tensors = 0;
  for (const h5::DatasetInfo& info : index.datasets())
    tensors += info.path.starts_with("/parameters/") || info.path.starts_with("/optimizer/");
  BOOST_CHECK_EQUAL(tensors, want.size());
  for (const auto& [path, tensor] : want) {
    const at::Tensor got = index.read(path);
    BOOST_CHECK_MESSAGE(got.scalar_type() == at::kFloat && at::equal(got, tensor), path);
  }
}

/// That every dataset below "/" has the sums of its elements below "/checksums".
int64_t check_sums(const h5::File& file) {
  int64_t elements = 0;
  for (const h5::DatasetInfo& info : file.datasets()) {
    if (info.path.starts_with("/checksums/") || info.path.starts_with("/trainer/")) continue;
    const at::Tensor tensor = file.read(info.path).contiguous();
    const at::Tensor sums = file.read("/checksums" + info.path);
    elements += tensor.numel();
    BOOST_REQUIRE_EQUAL(sums.numel(), (tensor.numel() + kBlock - 1) / kBlock);
    for (int64_t i = 0; i < sums.numel(); ++i) {
      const int64_t count = std::min(kBlock, tensor.numel() - i * kBlock);
      const uint64_t sum = xxh3_64(tensor.const_data_ptr<float>() + i * kBlock, count * 4);
      BOOST_CHECK_EQUAL(sums.const_data_ptr<uint64_t>()[i], sum);
    }
  }
  return elements;
}

void check_manifest(const std::string& folder) {
  const Json manifest = read_json_file(folder + "/manifest.json");
  BOOST_CHECK_EQUAL(manifest.at("step"), kStep);
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(folder)) files += entry.is_regular_file();
  BOOST_CHECK_EQUAL(manifest.at("files").size() + 1, files);  // itself
  for (const Json& file : manifest.at("files")) {
    int64_t bytes = 0;
    const uint64_t sum = xxh3_64_of_file(folder + "/" + file.at("name").get<std::string>(), &bytes);
    BOOST_CHECK_EQUAL(file.at("bytes"), bytes);
    BOOST_CHECK_EQUAL(file.at("xxh3_64"), fmt::format("{:016x}", sum));
  }
}

/// That `folder` is a whole checkpoint in shards of these tensors.
void check_shards(const std::string& folder, const std::map<std::string, at::Tensor>& want) {
  const h5::File index = h5::File::open(folder + "/index.h5");
  BOOST_CHECK_EQUAL(index.string_attribute("/", "schema").value(), "archon.checkpoint");
  BOOST_CHECK_EQUAL(index.string_attribute("/", "layout").value(), "shards");
  BOOST_CHECK_EQUAL(index.number_attribute("/", "step").value(), kStep);
  check_tensors(index, want);
  int64_t elements = 0, saved = 0;
  for (const auto& [path, tensor] : want) elements += tensor.numel();
  for (const std::string& shard : shards_of(folder)) {
    const h5::File file = h5::File::open(shard);
    BOOST_CHECK_EQUAL(file.string_attribute("/", "schema").value(), "archon.checkpoint_shard");
    saved += check_sums(file);
  }
  BOOST_CHECK_EQUAL(saved, elements);  // nothing twice
  check_manifest(folder);
}

std::string latest(const std::string& checkpoints) {
  return read_bytes(checkpoints + "/latest");
}

void save_case(const std::string& model, const MeshShape& shape, ShardMode mode) {
  BOOST_TEST_MESSAGE(model << ", " << to_string(shape) << ", mode " << static_cast<int>(mode));
  SavedRun run(model, shape, mode);
  const SharedFolder folder(run.mesh.world());
  const std::string checkpoints = folder.path() + "/checkpoints";
  CheckpointWriter writer = run.writer(checkpoints);
  const CheckpointResult result = writer.save(kStep, kTrainer);
  BOOST_CHECK_EQUAL(result.failure, "");
  BOOST_CHECK(result.complete);
  BOOST_CHECK_EQUAL(result.step, kStep);
  BOOST_CHECK_EQUAL(result.folder, checkpoints + "/step-00000120");
  BOOST_CHECK_EQUAL(writer.poll().step, 0);
  BOOST_CHECK_EQUAL(writer.finish().step, 0);
  const auto want = run.tensors();
  if (run.mesh.world().rank() == 0) {
    check_shards(result.folder, want);
    BOOST_CHECK_EQUAL(latest(checkpoints), "step-00000120\n");
  }
}

/// Files of a checkpoint by name, as bytes.
std::map<std::string, std::string> contents(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] = read_bytes(entry.path());
  return files;
}

MeshShape any_mesh() { return meshes_for(golden_folder(kModel) + "/model", ranks()).front(); }

/// Nothing but these names is in the folder.
void check_names(const std::string& folder, const std::set<std::string>& want) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
  BOOST_TEST(names == want, boost::test_tools::per_element());
}

/// A failure that tests ask for, for a while.
class FailingCheckpoint {
 public:
  explicit FailingCheckpoint(const std::string& what) {
    ::setenv("ARCHON_FAIL_CHECKPOINT", what.c_str(), 1);
  }
  ~FailingCheckpoint() { ::unsetenv("ARCHON_FAIL_CHECKPOINT"); }
};

/// The second of three saves fails; the first stays, the third comes out right.
void failing_case(const CheckpointOptions& options, const std::string& kind, int rank,
                  const std::string& reason) {
  BOOST_TEST_MESSAGE(kind << " at rank " << rank);
  const FailingCheckpoint failing(fmt::format("{}:{}:2", kind, rank));
  SavedRun run(kModel, any_mesh(), ShardMode::full);
  const SharedFolder folder(run.mesh.world());
  CheckpointWriter writer = run.writer(folder.path(), options);
  const auto save = [&](int64_t step) {
    const CheckpointResult result = writer.save(step, kTrainer);
    return options.async ? writer.finish() : result;
  };
  BOOST_CHECK(save(1).complete);
  const CheckpointResult failed = save(2);
  BOOST_CHECK(!failed.complete);
  BOOST_CHECK_EQUAL(failed.step, 2);
  BOOST_CHECK_MESSAGE(failed.failure.starts_with(fmt::format("rank {}: cannot ", rank)) &&
                          failed.failure.find(".step-00000002.tmp") != std::string::npos &&
                          failed.failure.ends_with(reason),
                      failed.failure);
  if (run.mesh.world().rank() == 0) {
    check_names(folder.path(), {"latest", "step-00000001"});
    BOOST_CHECK_EQUAL(latest(folder.path()), "step-00000001\n");
  }
  run.mesh.world().barrier();
  run.fill(3);
  BOOST_CHECK(save(kStep).complete);
  const auto want = run.tensors();
  if (run.mesh.world().rank() != 0) return;
  check_names(folder.path(), {"latest", "step-00000001", "step-00000120"});
  const std::string saved = folder.path() + "/step-00000120";
  check_tensors(h5::File::open(saved + "/index.h5"), want);
  check_manifest(saved);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_save_holds_every_element_once_from_every_mesh) {
  for (const char* model : {"q2_tiny_tied", "q3_kv2_h8", "q2_critic"})
    for (const MeshShape& shape : meshes_for(golden_folder(model) + "/model", ranks()))
      for (const ShardMode mode : {ShardMode::none, ShardMode::optimizer, ShardMode::full})
        save_case(model, shape, mode);
}

BOOST_AUTO_TEST_CASE(sgd_has_no_moments) {
  SavedRun run(kModel, any_mesh(), ShardMode::full, OptimizerKind::sgd);
  const SharedFolder folder(run.mesh.world());
  const auto result = run.writer(folder.path()).save(kStep, kTrainer);
  BOOST_CHECK(result.complete);
  const auto want = run.tensors();
  if (run.mesh.world().rank() == 0) check_shards(result.folder, want);
}

BOOST_AUTO_TEST_CASE(a_single_file_holds_the_same_from_every_mesh) {
  for (const MeshShape& shape : meshes_for(golden_folder(kModel) + "/model", ranks()))
    for (const ShardMode mode : {ShardMode::none, ShardMode::full}) {
      BOOST_TEST_MESSAGE("single, " << to_string(shape));
      SavedRun run(kModel, shape, mode);
      const SharedFolder folder(run.mesh.world());
      const auto result =
          run.writer(folder.path(), {.layout = CheckpointLayout::single}).save(kStep, kTrainer);
      BOOST_CHECK_EQUAL(result.failure, "");
      const auto want = run.tensors();
      if (run.mesh.world().rank() != 0) continue;
      BOOST_CHECK(shards_of(result.folder).empty());
      const h5::File file = h5::File::open(result.folder + "/index.h5");
      BOOST_CHECK_EQUAL(file.string_attribute("/", "layout").value(), "single");
      check_tensors(file, want);
      int64_t elements = 0;
      for (const auto& [path, tensor] : want) elements += tensor.numel();
      BOOST_CHECK_EQUAL(check_sums(file), elements);
      check_manifest(result.folder);
    }
}

// What the optimizer changes after save() returned is not in the checkpoint.
BOOST_AUTO_TEST_CASE(an_asynchronous_save_is_that_of_its_moment) {
  SavedRun run(kModel, any_mesh(), ShardMode::full);
  const SharedFolder folder(run.mesh.world());
  CheckpointWriter async = run.writer(folder.path(), {.async = true});
  const auto before = run.tensors();
  const auto synchronous = run.writer(folder.path() + "/sync").save(kStep, kTrainer);
  BOOST_CHECK_EQUAL(async.save(kStep, kTrainer).step, 0);
  run.step();
  CheckpointResult polled;
  while (polled.step == 0) polled = async.poll();
  BOOST_CHECK(polled.complete);
  BOOST_CHECK_EQUAL(async.poll().step, 0);
  if (run.mesh.world().rank() == 0) {
    check_shards(polled.folder, before);
    BOOST_CHECK(contents(polled.folder) == contents(synchronous.folder));
  }
  // Two in a row: the second waits for the first and tells how it ended.
  BOOST_CHECK_EQUAL(async.save(kStep + 1, kTrainer).step, 0);
  const CheckpointResult first = async.save(kStep + 2, kTrainer);
  BOOST_CHECK_EQUAL(first.step, kStep + 1);
  BOOST_CHECK(first.complete);
  BOOST_CHECK_EQUAL(async.finish().step, kStep + 2);
  const auto after = run.tensors();
  if (run.mesh.world().rank() != 0) return;
  check_tensors(h5::File::open(folder.path() + "/step-00000122/index.h5"), after);
  BOOST_CHECK_EQUAL(latest(folder.path()), "step-00000122\n");
}

// A run that has failed does not wait for the disk.
BOOST_AUTO_TEST_CASE(an_abandoned_save_ends_at_once_and_leaves_nothing) {
  SavedRun run(kModel, any_mesh(), ShardMode::full);
  const SharedFolder folder(run.mesh.world());
  {
    const FailingCheckpoint stalled("stall");
    CheckpointWriter writer = run.writer(folder.path(), {.async = true});
    writer.save(kStep, kTrainer);
  }
  run.mesh.world().barrier();
  if (run.mesh.world().rank() == 0) check_names(folder.path(), {});
  run.mesh.world().barrier();
}

BOOST_AUTO_TEST_CASE(a_save_is_not_disturbed_by_what_a_killed_one_left) {
  SavedRun run(kModel, any_mesh(), ShardMode::full);
  const SharedFolder folder(run.mesh.world());
  if (run.mesh.world().rank() == 0) {
    fs::create_directories(folder.path() + "/.step-00000120.tmp");
    write_bytes(folder.path() + "/.step-00000120.tmp/shard-00000.h5", "half of it");
  }
  run.mesh.world().barrier();
  const auto result = run.writer(folder.path()).save(kStep, kTrainer);
  BOOST_CHECK(result.complete);
  const auto want = run.tensors();
  if (run.mesh.world().rank() == 0) check_shards(result.folder, want);
}

BOOST_AUTO_TEST_CASE(compression_changes_nothing_but_the_size) {
  SavedRun run(kModel, any_mesh(), ShardMode::full);
  const SharedFolder folder(run.mesh.world());
  const auto plain = run.writer(folder.path()).save(1, kTrainer);
  const auto result = run.writer(folder.path(), {.compression = 6}).save(kStep, kTrainer);
  BOOST_CHECK_EQUAL(result.failure, "");
  const auto want = run.tensors();
  if (run.mesh.world().rank() != 0) return;
  check_shards(result.folder, want);
  for (const std::string& shard : shards_of(plain.folder)) {
    const std::string name = fs::path(shard).filename();
    BOOST_CHECK_LT(fs::file_size(result.folder + "/" + name), fs::file_size(shard));
  }
}

BOOST_AUTO_TEST_CASE(options_that_do_not_go_together_are_refused) {
  SavedRun run(kModel, any_mesh(), ShardMode::full);
  const auto refuses = [&](const CheckpointOptions& options, const char* a, const char* b) {
    BOOST_CHECK_EXCEPTION(run.writer("unused", options), InputError, mentions(a, b));
  };
  refuses({.layout = CheckpointLayout::single, .async = true}, "single file", "asynchronously");
  refuses({.layout = CheckpointLayout::single, .compression = 1}, "single file", "compressed");
  refuses({.async = true, .compression = 1}, "compressed", "asynchronously");
  refuses({.compression = 10}, "10", "1 to 9");
}

BOOST_AUTO_TEST_CASE(failures_are_told_and_leave_what_was_there) {
  const int last = ranks() - 1;
  const CheckpointOptions plain, async{.async = true};
  failing_case(plain, "open", last, "Input/output error");
  failing_case(plain, "space", last, "No space left on device");
  failing_case(plain, "write", 0, "Input/output error");
  failing_case(plain, "sync", last, "Input/output error");
  failing_case(plain, "rename", 0, "Input/output error");
  failing_case(async, "space", last, "No space left on device");
  failing_case(async, "sync", 0, "Input/output error");
  failing_case({.layout = CheckpointLayout::single}, "open", last, "Input/output error");
  failing_case({.layout = CheckpointLayout::single}, "space", 0, "No space left on device");
  failing_case({.layout = CheckpointLayout::single}, "write", last, "Input/output error");
  failing_case({.compression = 1}, "write", last, "Input/output error");
}

// The system's own refusals: files may not grow, and the folder cannot be made.
BOOST_AUTO_TEST_CASE(files_that_may_not_grow_and_a_missing_folder_are_told) {
  std::signal(SIGXFSZ, SIG_IGN);  // as the program does
  SavedRun run(kModel, any_mesh(), ShardMode::full);
  const SharedFolder folder(run.mesh.world());
  CheckpointWriter writer = run.writer(folder.path());
  CheckpointResult result;
  {
    // Of the last rank: rank 0 lays the index out in memory, where the limit counts as well.
    std::optional<FileSizeLimit> limit;
    if (run.mesh.world().rank() + 1 == ranks()) limit.emplace(100000);
    result = writer.save(kStep, kTrainer);
  }
  BOOST_CHECK(!result.complete);
  BOOST_CHECK_MESSAGE(result.failure.ends_with("File too large"), result.failure);
  if (run.mesh.world().rank() == 0) {
    check_names(folder.path(), {});
    write_bytes(folder.path() + "/file", "no folder");
  }
  run.mesh.world().barrier();
  result = run.writer(folder.path() + "/file").save(kStep, kTrainer);
  BOOST_CHECK_MESSAGE(result.failure.starts_with("rank 0: cannot make the folder") &&
                          result.failure.ends_with("Not a directory"),
                      result.failure);
}

// Not only when the save is published: until then the training writes to the same disk.
BOOST_AUTO_TEST_CASE(a_rank_that_fails_removes_its_files_at_once) {
  for (const int rank : {0, ranks() - 1}) {
    const FailingCheckpoint failing(fmt::format("sync:{}", rank));
    SavedRun run(kModel, any_mesh(), ShardMode::full);
    const SharedFolder folder(run.mesh.world());
    run.writer(folder.path(), {.async = true}).save(kStep, kTrainer);  // and abandons it
    run.mesh.world().barrier();
    BOOST_CHECK(
        !fs::exists(fmt::format("{}/.step-{:08}.tmp/shard-{:05}.h5", folder.path(), kStep, rank)));
    run.mesh.world().barrier();
  }
}

// Needs the right to mount a small disk, which one process sees alone.
BOOST_AUTO_TEST_CASE(a_full_disk_is_told) {
  if (ranks() > 1) return;
  const TemporaryFolder folder;
  const bool mounted = ::unshare(CLONE_NEWNS) == 0 &&
                       ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                       ::mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=200k") == 0;
  if (!mounted) {
    BOOST_TEST_MESSAGE("not checked: no disk can be mounted here");
    return;
  }
  SavedRun run(kModel, any_mesh(), ShardMode::full);
  for (const CheckpointOptions& options :
       {CheckpointOptions{}, CheckpointOptions{.async = true}, CheckpointOptions{.compression = 1},
        CheckpointOptions{.layout = CheckpointLayout::single}}) {
    CheckpointWriter writer = run.writer(folder.path(), options);
    CheckpointResult result = writer.save(kStep, kTrainer);
    if (options.async) result = writer.finish();
    BOOST_CHECK(!result.complete);
    BOOST_CHECK_MESSAGE(result.failure.ends_with("No space left on device"), result.failure);
    check_names(folder.path(), {});
  }
  run.writer(folder.path(), {.async = true}).save(kStep, kTrainer);  // and abandons it
  check_names(folder.path(), {});
  ::umount(folder.path().c_str());
}
