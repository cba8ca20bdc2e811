// inspect, export and --model, given checkpoints.
#include <ATen/ops/tensor.h>

#include "run_control.hpp"

using namespace archon;
using namespace archon::test;
namespace fs = std::filesystem;

namespace {

/// Two ranks trained four steps and saved after each second one.
struct TrainedRun : Inputs {
  explicit TrainedRun(const std::vector<std::string>& more = {}) {
    check_runs(2, with(train({"--steps", "4", "--save-every", "2", "--lr", "1e-2"}), more));
  }
  /// The same bytes under the same names.
  void check_same_folder(const std::string& a, const std::string& b) const {
    std::size_t files = 0;
    for (const auto& item : fs::directory_iterator(a)) {
      const std::string name = item.path().filename().string();
      BOOST_CHECK_MESSAGE(read_bytes(a + "/" + name) == read_bytes(b + "/" + name), name);
      ++files;
    }
    BOOST_CHECK_GT(files, 1u);
    BOOST_CHECK_EQUAL(std::distance(fs::directory_iterator(b), {}), static_cast<long>(files));
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(an_export_is_what_train_leaves) {
  for (const char* layout : {"shards", "single"}) {
    const TrainedRun run({"--checkpoint-layout", layout});
    check_runs(1, {"export", "--checkpoint", run.output, "--output", run.folder / "exported"});
    run.check_same_folder(run.output + "/hf", run.folder / "exported");
    check_runs(1, {"export", "--checkpoint", step_folder(run, 2), "--output", run.folder / "two",
                   "--dtype", "bfloat16", "--max-shard-size", "100KB"});
    BOOST_CHECK(fs::exists(run.folder / "two/model.safetensors.index.json"));
    CHECK_CONTAINS(run_archon({"inspect", run.folder / "two"}).out, "bfloat16");
  }
}

BOOST_AUTO_TEST_CASE(a_checkpoint_is_a_model_for_every_command) {
  const TrainedRun run;
  const std::string hf = run.output + "/hf", saved = run.output;
  const auto eval = [&](int ranks, const std::string& model, const std::string& tp) {
    const auto result = run_on(ranks, {"eval", "--model", model, "--data", run.data, "--tp", tp});
    BOOST_CHECK_EQUAL(result.exit_code, 0);
    return Json::parse(result.out).at("loss").get<double>();
  };
  BOOST_CHECK_EQUAL(eval(1, saved, "1"), eval(1, hf, "1"));
  BOOST_CHECK_EQUAL(eval(2, checkpoints_of(run) + "/latest", "2"), eval(2, hf, "2"));
  BOOST_CHECK_NE(eval(1, step_folder(run, 2), "1"), eval(1, hf, "1"));
  check_runs(1, {"forward", "--model", saved, "--data", run.data, "--output", run.folder / "a.h5"});
  check_runs(1, {"forward", "--model", hf, "--data", run.data, "--output", run.folder / "b.h5"});
  check_runs(1, {"diff", run.folder / "a.h5", run.folder / "b.h5", "--rtol", "0", "--atol", "0"});
  check_runs(1, {"plan", "--model", saved, "--dp", "2", "--max-sequence", "64"});
  check_runs(1, {"train", "--model", saved, "--data", run.data, "--output", run.folder / "next",
                 "--steps", "1"});
}

BOOST_AUTO_TEST_CASE(inspect_shows_a_checkpoint) {
  const TrainedRun run;
  for (const std::string& path : {run.output, checkpoints_of(run), step_folder(run, 4)}) {
    const auto result = run_archon({"inspect", path});
    BOOST_CHECK_EQUAL(result.exit_code, 0);
    for (const char* part : {"checkpoint of step 4", "shards, 2 files", "exp_avg, exp_avg_sq"})
      CHECK_CONTAINS(result.out, part);
  }
  CHECK_CONTAINS(run_archon({"inspect", step_folder(run, 2)}).out, "checkpoint of step 2");
}

BOOST_AUTO_TEST_CASE(inspect_verifies) {
  const TrainedRun run;
  const std::string saved = step_folder(run, 4), shard = saved + "/shard-00001.h5";
  const auto sound = run_archon({"inspect", run.output, "--verify"});
  BOOST_CHECK_EQUAL(sound.exit_code, 0);
  CHECK_CONTAINS(sound.out, "checkpoint of step 4");
  CHECK_CONTAINS(sound.out, "sound: ");
  const std::string whole = read_bytes(shard);
  std::string bytes = whole;
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 16);
  write_bytes(shard, bytes);
  const auto damaged = run_archon({"inspect", saved, "--verify"});
  BOOST_CHECK_EQUAL(damaged.exit_code, 2);
  BOOST_CHECK_EQUAL(count(damaged.out, "\n"), 1);
  BOOST_CHECK_EQUAL(damaged.out.find("damaged: " + shard + ": /"), 0u);
  check_bad_input(2, {"eval", "--model", saved, "--data", run.data}, {shard, "is damaged"});
  check_bad_input(1, {"export", "--checkpoint", saved, "--output", run.folder / "exported"},
                  {shard, "is damaged"});
  BOOST_CHECK(!fs::exists(run.folder / "exported/config.json"));
  fs::remove(shard);
  const auto missing = run_archon({"inspect", saved, "--verify"});
  BOOST_CHECK_EQUAL(missing.exit_code, 2);
  BOOST_CHECK_EQUAL(missing.out, "damaged: " + shard + ": it is missing\n");
  check_bad_input(1, {"inspect", saved}, {"shard-00001.h5", "No such file"});
  check_bad_input(1, {"inspect", run.model, "--verify"}, {run.model, "is no checkpoint"});
  check_bad_input(1, {"export", "--checkpoint", run.model, "--output", run.folder / "exported"},
                  {run.model, "is no checkpoint"});
}
