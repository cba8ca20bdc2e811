// Checkpoints as folders: which ones count, how they appear and go.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <functional>

#include "archon/base/checksum.hpp"
#include "archon/base/error.hpp"
#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/io/files.hpp"
#include "manifest.hpp"
#include "support/temporary_folder.hpp"

namespace archon {
namespace {

namespace fs = std::filesystem;
using test::mentions;
using test::names_in;
using test::TemporaryFolder;
using test::write_bytes;

/// A folder of that name with an index and a shard of a few bytes, and their manifest.
std::string write_small(const std::string& folder, int64_t step, const std::string& text = "data") {
  fs::create_directories(folder);
  Manifest manifest{step, {}};
  for (const char* name : {"index.h5", "shard-00000.h5"}) {
    write_bytes(folder + "/" + name, text + name);
    ManifestFile file{name, 0, 0};
    file.xxh3_64 = xxh3_64_of_file(folder + "/" + name, &file.bytes);
    manifest.files.push_back(file);
  }
  write_manifest(folder, manifest);
  return folder;
}

void publish_small(const std::string& folder, int64_t step, const std::string& text = "data") {
  publish_checkpoint(write_small(folder + "/.step-" + std::to_string(step) + ".tmp", step, text),
                     folder, step);
}

std::vector<int64_t> steps_in(const std::string& folder) {
  std::vector<int64_t> steps;
  for (const CheckpointEntry& entry : list_checkpoints(folder)) {
    steps.push_back(entry.step);
    BOOST_TEST(entry.folder == folder + "/" + checkpoint_name(entry.step));
  }
  return steps;
}

void check_steps(const std::string& folder, const std::vector<int64_t>& expected) {
  BOOST_TEST(steps_in(folder) == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(published_ones_are_listed_newest_first) {
  const TemporaryFolder folder;
  check_steps(folder / "absent", {});
  check_steps(folder.path(), {});
  for (const int64_t step : {5, 100, 20}) publish_small(folder.path(), step);
  check_steps(folder.path(), {100, 20, 5});
  BOOST_TEST(
      names_in(folder.path()) ==
          (std::vector<std::string>{"latest", "step-00000005", "step-00000020", "step-00000100"}),
      boost::test_tools::per_element());
  BOOST_TEST(read_text_file(folder / "latest") == "step-00000020\n");
  BOOST_TEST(checkpoint_name(1234567890) == "step-1234567890");
}

BOOST_AUTO_TEST_CASE(one_of_the_same_step_is_replaced) {
  const TemporaryFolder folder;
  publish_small(folder.path(), 5, "old");
  publish_small(folder.path(), 5, "new");
  check_steps(folder.path(), {5});
  BOOST_TEST(read_text_file(folder / "step-00000005/index.h5") == "newindex.h5");
  BOOST_TEST(names_in(folder.path()).size() == 2u);
  // also what is half of one
  fs::remove(folder / "step-00000005/manifest.json");
  publish_small(folder.path(), 5, "newer");
  BOOST_TEST(read_text_file(folder / "step-00000005/index.h5") == "newerindex.h5");
}

BOOST_AUTO_TEST_CASE(a_failed_publication_leaves_what_was_there) {
  const TemporaryFolder folder;
  publish_small(folder.path(), 5, "old");
  BOOST_CHECK_EXCEPTION(publish_checkpoint(folder / ".absent", folder.path(), 5), RuntimeFailure,
                        mentions("cannot rename", ".absent", "No such file"));
  BOOST_TEST(read_text_file(folder / "step-00000005/index.h5") == "oldindex.h5");
  BOOST_CHECK_THROW(publish_checkpoint(folder / ".absent", folder.path(), 6), RuntimeFailure);
  check_steps(folder.path(), {5});
  BOOST_TEST(read_text_file(folder / "latest") == "step-00000005\n");
}

BOOST_AUTO_TEST_CASE(half_ones_are_not_listed) {
  const TemporaryFolder folder;
  const auto spoil = [&](const std::function<void(const std::string&)>& how) {
    publish_small(folder.path(), 7);
    check_steps(folder.path(), {7, 5});
    how(folder / "step-00000007");
    check_steps(folder.path(), {5});
  };
  publish_small(folder.path(), 5);
  spoil([](const std::string& path) { fs::remove(path + "/manifest.json"); });
  spoil([](const std::string& path) { fs::remove(path + "/index.h5"); });
  spoil([](const std::string& path) { fs::remove(path + "/shard-00000.h5"); });
  spoil([](const std::string& path) { fs::resize_file(path + "/shard-00000.h5", 3); });
  spoil([](const std::string& path) { fs::resize_file(path + "/index.h5", 1000); });
  spoil([](const std::string& path) { fs::resize_file(path + "/manifest.json", 100); });
  spoil([](const std::string& path) { write_bytes(path + "/manifest.json", ""); });
  spoil([](const std::string& path) { write_bytes(path + "/manifest.json", "[]"); });
  spoil([](const std::string& path) { write_small(path, 8); });  // of another step
  // one that is still being written
  write_small(folder / ".step-00000009.tmp", 9);
  check_steps(folder.path(), {5});
}

BOOST_AUTO_TEST_CASE(a_flipped_bit_of_a_manifest_is_seen) {
  const TemporaryFolder folder;
  const std::string path = write_small(folder / "step-00000005", 5) + "/manifest.json";
  const std::string whole = test::read_bytes(path);
  for (std::size_t bit = 0; bit < whole.size() * 8; bit += 29) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    write_bytes(path, flipped);
    BOOST_CHECK_EXCEPTION(read_manifest(folder / "step-00000005"), InputError,
                          mentions("manifest.json"));
  }
}

BOOST_AUTO_TEST_CASE(a_path_leads_to_a_checkpoint) {
  const TemporaryFolder folder;
  const std::string run = folder / "run", all = run + "/checkpoints";
  fs::create_directories(all);
  publish_small(all, 20);
  publish_small(all, 5);
  const auto step_of = [](const std::string& path) {
    const auto found = find_checkpoint(path);
    return found ? found->step : -1;
  };
  BOOST_TEST(step_of(run) == 20);
  BOOST_TEST(step_of(run + "/") == 20);
  BOOST_TEST(step_of(all) == 20);
  BOOST_TEST(step_of(all + "/step-00000005") == 5);
  BOOST_TEST(step_of(all + "/step-00000005/") == 5);
  BOOST_TEST(step_of(all + "/latest") == 5);
  fs::rename(all + "/step-00000005", folder / "best");
  BOOST_TEST(step_of(folder / "best") == 5);
  fs::rename(all, folder / "moved");
  BOOST_TEST(step_of(folder / "moved") == 20);
  BOOST_TEST(find_checkpoint(all + "/step-00000020").has_value() == false);
}

BOOST_AUTO_TEST_CASE(what_is_no_checkpoint_is_left_to_others) {
  const TemporaryFolder folder;
  BOOST_TEST(!find_checkpoint(folder / "absent"));
  BOOST_TEST(!find_checkpoint(folder.path()));
  write_bytes(folder / "config.json", "{}");
  BOOST_TEST(!find_checkpoint(folder.path()));
  BOOST_TEST(!find_checkpoint(folder / "config.json"));
  publish_small(folder / "checkpoints", 5);  // a model folder that a run took for its output
  BOOST_TEST(!find_checkpoint(folder.path()));
  BOOST_TEST(find_checkpoint(folder / "checkpoints")->step == 5);
}

BOOST_AUTO_TEST_CASE(a_path_to_no_complete_checkpoint_is_refused) {
  const TemporaryFolder folder;
  const std::string all = folder / "checkpoints";
  fs::create_directories(all);
  BOOST_CHECK_EXCEPTION(find_checkpoint(all), InputError, mentions(all, "no complete checkpoint"));
  BOOST_CHECK_EXCEPTION(find_checkpoint(folder.path()), InputError, mentions("no complete"));
  publish_small(all, 5);
  fs::remove(all + "/step-00000005/shard-00000.h5");
  for (const char* name : {"/step-00000005", "/latest"})
    BOOST_CHECK_EXCEPTION(find_checkpoint(all + name), InputError,
                          mentions("shard-00000.h5", "No such file"));
  BOOST_CHECK_THROW(find_checkpoint(all), InputError);
  fs::remove(all + "/step-00000005/manifest.json");
  BOOST_CHECK_EXCEPTION(find_checkpoint(all + "/step-00000005"), InputError,
                        mentions("manifest.json"));
}

BOOST_AUTO_TEST_CASE(pruning_keeps_the_newest_and_the_latest) {
  const TemporaryFolder folder;
  for (const int64_t step : {2, 10, 20, 30, 5}) publish_small(folder.path(), step);
  fs::create_directories(folder / ".step-00000040.tmp");
  write_bytes(folder / "latest.tmp", "step-");
  prune_checkpoints(folder.path(), 0);
  check_steps(folder.path(), {30, 20, 10, 5, 2});
  BOOST_TEST(names_in(folder.path()).size() == 6u);  // no leftovers
  prune_checkpoints(folder.path(), 2);
  check_steps(folder.path(), {30, 20, 5});
  fs::remove(folder / "step-00000030/manifest.json");  // does not count, and stays to be looked at
  prune_checkpoints(folder.path(), 1);
  check_steps(folder.path(), {20, 5});
  BOOST_TEST(fs::exists(folder / "step-00000030"));
  fs::remove(folder / "latest");
  prune_checkpoints(folder.path(), 1);
  check_steps(folder.path(), {20});
  prune_checkpoints(folder / "absent", 1);
}

}  // namespace
}  // namespace archon
