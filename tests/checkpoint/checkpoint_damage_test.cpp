// A flipped bit anywhere in a checkpoint is found and named, and no load gives wrong numbers.
#include <ATen/ops/equal.h>

#include <random>

#include "archon/base/error.hpp"
#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/checkpoint/checkpoint_reader.hpp"
#include "saved_run.hpp"

using namespace archon;
using namespace archon::test;
namespace fs = std::filesystem;

namespace {

BOOST_GLOBAL_FIXTURE(LoadedPlugins);

/// A checkpoint that all ranks saved, in the hands of one of them.
struct SavedCheckpointCase {
  explicit SavedCheckpointCase(CheckpointLayout layout)
      : run("q3_kv2_h8", {test_environment().world_size(), 1, 1}, ShardMode::full),
        folder(run.mesh.world()) {
    CheckpointWriter writer = run.writer(folder.path(), {.layout = layout});
    path = writer.save(7, {{"epoch", 3}}).folder;
    want = run.tensors();
  }
  bool mine() const { return run.mesh.world().rank() == 0; }

  SavedRun run;
  SharedFolder folder;
  std::string path;
  std::map<std::string, at::Tensor> want;
};

/// verify names this file and no other.
void check_found(const std::string& folder, const std::string& file, const std::string& how) {
  const std::vector<CheckpointDamage> damage = verify_checkpoint(folder);
  BOOST_CHECK_MESSAGE(!damage.empty(), file << ", " << how);
  for (const CheckpointDamage& found : damage) BOOST_CHECK_EQUAL(found.file, file);
}

/// A load refuses, with the checkpoint's name, or gives what was saved. Whether it refused.
bool check_load(SavedCheckpointCase& saved, SavedRun& alone, const std::string& how) {
  alone.fill(9);
  try {
    load_checkpoint(saved.path, *alone.loaded.model, alone.optimizer.get(),
                    alone.loaded.spec->adapter, alone.mesh);
  } catch (const InputError& error) {
    BOOST_CHECK_MESSAGE(mentions(saved.path)(error), how << ": " << error.what());
    return true;
  }
  for (const auto& [path, tensor] : alone.tensors())
    BOOST_CHECK_MESSAGE(at::equal(saved.want.at(path), tensor), how << ": " << path);
  BOOST_CHECK_EQUAL(alone.optimizer->steps(), 1);
  return false;
}

/// Bytes all over a file, more of them where HDF5's own structures begin.
std::vector<std::size_t> places(std::size_t size, std::mt19937& random) {
  std::vector<std::size_t> chosen;
  for (int i = 0; i < 12; ++i) chosen.push_back(random() % size);
  for (int i = 0; i < 12; ++i) chosen.push_back(random() % std::min<std::size_t>(size, 20000));
  return chosen;
}

void flip_everywhere(CheckpointLayout layout) {
  SavedCheckpointCase saved(layout);
  if (!saved.mine()) return;
  SavedRun alone("q3_kv2_h8", {1, 1, 1}, ShardMode::none, OptimizerKind::adamw, MPI_COMM_SELF);
  BOOST_REQUIRE(!check_load(saved, alone, "sound"));
  BOOST_REQUIRE(verify_checkpoint(saved.path).empty());
  std::mt19937 random(5);
  int refused = 0, flips = 0;
  for (const std::string& name : names_in(saved.path)) {
    const std::string path = saved.path + "/" + name, whole = read_bytes(path);
    for (const std::size_t place : places(whole.size(), random)) {
      const int bit = static_cast<int>(random() % 8);
      const std::string how = fmt::format("{}, byte {}, bit {}", name, place, bit);
      std::string flipped = whole;
      flipped[place] = static_cast<char>(flipped[place] ^ (1 << bit));
      write_bytes(path, flipped);
      check_found(saved.path, name, how);
      refused += check_load(saved, alone, how);
      ++flips;
    }
    write_bytes(path, whole);
  }
  BOOST_TEST_MESSAGE(refused << " of " << flips << " loads refused");
  BOOST_TEST(refused > flips / 2);
  BOOST_REQUIRE(!check_load(saved, alone, "sound"));
}

}  // namespace

BOOST_AUTO_TEST_CASE(flipped_bits_in_shards_are_found) {
  flip_everywhere(CheckpointLayout::shards);
}

BOOST_AUTO_TEST_CASE(flipped_bits_in_a_single_file_are_found) {
  flip_everywhere(CheckpointLayout::single);
}

BOOST_AUTO_TEST_CASE(damage_is_named_by_dataset) {
  SavedCheckpointCase saved(CheckpointLayout::shards);
  if (!saved.mine()) return;
  const std::string path = saved.path + "/shard-00000.h5";
  const std::string dataset = "/parameters/model.embed_tokens.weight";
  const auto address = [&] {
    const h5::File file = h5::File::open(path);
    const h5::Handle id(H5Dopen2(file.id(), dataset.c_str(), H5P_DEFAULT));
    return H5Dget_offset(id.get());
  }();
  std::string bytes = read_bytes(path);
  bytes[address + 5] = static_cast<char>(bytes[address + 5] ^ 4);
  write_bytes(path, bytes);
  int64_t read = 0;
  const std::vector<CheckpointDamage> damage = verify_checkpoint(saved.path, &read);
  BOOST_REQUIRE_EQUAL(damage.size(), 1u);
  BOOST_CHECK_EQUAL(damage[0].file, "shard-00000.h5");
  BOOST_CHECK_EQUAL(damage[0].what.find(dataset + ": "), 0u);
  int64_t size = 0;
  for (const std::string& name : names_in(saved.path))
    if (name != "manifest.json")
      size += static_cast<int64_t>(fs::file_size(saved.path + "/" + name));
  BOOST_CHECK_EQUAL(read, size);
}

BOOST_AUTO_TEST_CASE(files_that_are_missing_or_of_another_size_are_named) {
  for (const auto layout : {CheckpointLayout::shards, CheckpointLayout::single}) {
    SavedCheckpointCase saved(layout);
    if (!saved.mine()) continue;
    SavedRun alone("q3_kv2_h8", {1, 1, 1}, ShardMode::none, OptimizerKind::adamw, MPI_COMM_SELF);
    for (const std::string& name : names_in(saved.path)) {
      const std::string path = saved.path + "/" + name, whole = read_bytes(path);
      const auto check = [&](const std::string& how) {
        check_found(saved.path, name, how);
        BOOST_CHECK(check_load(saved, alone, name + ", " + how));
        BOOST_CHECK(list_checkpoints(saved.folder.path()).empty());
      };
      for (const std::size_t size : {std::size_t{0}, whole.size() / 2, whole.size() - 1}) {
        fs::resize_file(path, size);
        check("cut off");
      }
      write_bytes(path, whole + "x");
      check("longer");
      fs::remove(path);
      check("missing");
      write_bytes(path, whole);
    }
  }
}
