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
};

/// One that no test changes.
const TrainedRun& trained_run() {
  static const TrainedRun run;
  return run;
}

/// The same bytes under the same names.
void check_same_folder(const std::string& a, const std::string& b) {
  std::size_t files = 0;
  for (const auto& item : fs::directory_iterator(a)) {
    const std::string name = item.path().filename().string();
    BOOST_CHECK_MESSAGE(read_bytes(a + "/" + name) == read_bytes(b + "/" + name), name);
    ++files;
  }
  BOOST_CHECK_GT(files, 1u);
  BOOST_CHECK_EQUAL(std::distance(fs::directory_iterator(b), {}), static_cast<long>(files));
}

void flip_weight(const std::string& shard) {
  const auto address = [&] {
    const h5::File file = h5::File::open(shard);
    return H5Dget_offset(h5::Handle(H5Dopen2(file.id(), "/parameters/lm_head.weight", 0)).get());
  }();
  std::string bytes = read_bytes(shard);
  bytes[address + 9] = static_cast<char>(bytes[address + 9] ^ 16);
  write_bytes(shard, bytes);
}

}  // namespace

BOOST_AUTO_TEST_CASE(an_export_is_what_train_leaves) {
  const TrainedRun single({"--checkpoint-layout", "single"});
  for (const TrainedRun* run : {&trained_run(), &single}) {
    const std::string exported = run->folder / "exported";
    check_runs(1, {"export", "--checkpoint", run->output, "--output", exported});
    check_same_folder(run->output + "/hf", exported);
  }
  const std::string half = single.folder / "half";
  check_runs(1, {"export", "--checkpoint", step_folder(single, 2), "--output", half, "--dtype",
                 "bfloat16", "--max-shard-size", "100KB"});
  BOOST_CHECK(fs::exists(half + "/model.safetensors.index.json"));
  CHECK_CONTAINS(run_archon({"inspect", half}).out, "bfloat16");
}

BOOST_AUTO_TEST_CASE(an_export_spoils_no_checkpoint) {
  const TrainedRun& run = trained_run();
  for (const std::string& output : {run.output, step_folder(run, 4)})
    check_bad_input(1, {"export", "--checkpoint", run.output, "--output", output},
                    {"--output " + output, "choose another folder"});
  CHECK_CONTAINS(run_archon({"inspect", run.output, "--verify"}).out, "sound: ");
}

// As its published versions and the folder that the run leaves.
BOOST_AUTO_TEST_CASE(a_checkpoint_names_the_type_of_the_model) {
  const Inputs inputs;
  const std::string half = inputs.folder / "half", published = inputs.folder / "published",
                    exported = inputs.folder / "exported";
  check_runs(1, {"init", "--config", inputs.model + "/config.json", "--dtype", "bfloat16",
                 "--output", half});
  check_runs(1, {"train", "--model", half, "--data", inputs.data, "--output", inputs.output,
                 "--steps", "2", "--save-every", "2", "--publish", published});
  check_runs(1, {"export", "--checkpoint", inputs.output, "--output", exported});
  check_same_folder(inputs.output + "/hf", exported);
  check_runs(1, {"diff", published + "/latest", exported, "--rtol", "0", "--atol", "0"});
}

BOOST_AUTO_TEST_CASE(a_checkpoint_is_a_model_for_every_command) {
  const TrainedRun& run = trained_run();
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
  const TrainedRun& run = trained_run();
  for (const std::string& path : {run.output, checkpoints_of(run), step_folder(run, 4)}) {
    const auto result = run_archon({"inspect", path});
    BOOST_CHECK_EQUAL(result.exit_code, 0);
    for (const char* part : {"checkpoint of step 4", "shards, 2 files", "exp_avg, exp_avg_sq"})
      CHECK_CONTAINS(result.out, part);
  }
  CHECK_CONTAINS(run_archon({"inspect", step_folder(run, 2)}).out, "checkpoint of step 2");
}

BOOST_AUTO_TEST_CASE(inspect_verifies) {
  const TrainedRun& run = trained_run();
  const std::string saved = run.folder / "step-00000004", shard = saved + "/shard-00001.h5";
  fs::copy(step_folder(run, 4), saved);
  const auto sound = run_archon({"inspect", run.output, "--verify"});
  BOOST_CHECK_EQUAL(sound.exit_code, 0);
  CHECK_CONTAINS(sound.out, "checkpoint of step 4");
  CHECK_CONTAINS(sound.out, "sound: ");
  flip_weight(shard);
  const auto damaged = run_archon({"inspect", saved, "--verify"});
  BOOST_CHECK_EQUAL(damaged.exit_code, 2);
  BOOST_CHECK_EQUAL(count(damaged.out, "\n"), 1);
  BOOST_CHECK_EQUAL(damaged.out.find("damaged: " + shard + ": /parameters/lm_head.weight: "), 0u);
  check_bad_input(2, {"eval", "--model", saved, "--data", run.data}, {shard, "is damaged"});
  check_bad_input(1, {"export", "--checkpoint", saved, "--output", run.folder / "refused"},
                  {shard, "is damaged"});
  BOOST_CHECK(!fs::exists(run.folder / "refused/config.json"));
  fs::remove(shard);
  const auto missing = run_archon({"inspect", saved, "--verify"});
  BOOST_CHECK_EQUAL(missing.exit_code, 2);
  BOOST_CHECK_EQUAL(missing.out, "damaged: " + shard + ": it is missing\n");
  check_bad_input(1, {"inspect", saved}, {"shard-00001.h5", "No such file"});
  check_bad_input(1, {"inspect", run.model, "--verify"}, {run.model, "is no checkpoint"});
  check_bad_input(1, {"export", "--checkpoint", run.model, "--output", run.folder / "refused"},
                  {run.model, "is no checkpoint"});
}
