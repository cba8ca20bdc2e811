// Runs that stop and go on: bit by bit as if nothing had happened, from what is there to go on
// from.
#include <ATen/ops/tensor.h>

#include "run_control.hpp"

using namespace archon;
using namespace archon::test;
namespace fs = std::filesystem;

namespace {

using Words = std::vector<std::string>;

Words operator+(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

// Shuffled, several micro-batches a step, recomputed, in bfloat16.
const Words kOptions = {"--batch-sequences", "8",          "--micro-batch-tokens", "50",
                        "--dtype",           "bfloat16",   "--seed",               "3",
                        "--lr",              "1e-3",       "--activation-checkpointing", "full"};

struct Run : Inputs {
  Run() { write_varied_sequences(*this); }
  Words command(int64_t steps, const Words& more = {}) const {
    return with(train(kOptions + Words{"--steps", std::to_string(steps)}), more);
  }
  std::string lines() const { return read_bytes(output + "/metrics.jsonl"); }
  std::string trained() const { return read_bytes(output + "/hf/model.safetensors"); }
  ProcessResult go(int ranks, int64_t steps, const Words& more = {}) const {
    const auto result = run_on(ranks, command(steps, more));
    BOOST_REQUIRE_MESSAGE(result.exit_code == 0, result.exit_code << ": " << result.err);
    return result;
  }
};

/// What both runs computed at every step is the same.
void check_same_steps(const Inputs& a, const Inputs& b, double tolerance = 0) {
  const auto rows = metrics(a), others = metrics(b);
  BOOST_REQUIRE_EQUAL(rows.size(), others.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    BOOST_CHECK_EQUAL(rows[i].at("step").get<int64_t>(), static_cast<int64_t>(i) + 1);
    for (const char* name : {"step", "tokens", "targets", "skipped"})
      BOOST_CHECK_EQUAL(rows[i].at(name), others[i].at(name));
    for (const char* name : {"loss", "grad_norm", "lr"}) {
      const double x = rows[i].at(name), y = others[i].at(name);
      BOOST_CHECK_MESSAGE(std::abs(x - y) <= tolerance * std::abs(x),
                          name << " of step " << i + 1 << ": " << x << " and " << y);
    }
  }
}

/// Trains without an end and with checkpoints, and kills a rank when there is one; returns its step.
int64_t train_and_kill(const Run& run, int ranks, const Words& options) {
  const auto result = act_during(
      ranks, run.command(1'000'000, options), [&] { return latest_step(run) > 0; },
      [&] { ::kill(find_rank(run.output, ranks - 1), SIGKILL); });
  BOOST_REQUIRE_MESSAGE(result.exit_code == 128 + SIGKILL, result.exit_code << result.err);
  return latest_step(run);
}

void check_bitwise(int ranks, const Words& mesh, const Words& saving) {
  const Run run, whole;
  const int64_t saved = train_and_kill(run, ranks, mesh + saving);
  const std::string before = run.lines();
  const int64_t steps = saved + 5;
  const auto resumed = run_archon_ranks(ranks, run.command(steps, mesh + saving));
  BOOST_REQUIRE_MESSAGE(resumed.exit_code == 0, resumed.err);
  CHECK_CONTAINS(resumed.err, fmt::format("goes on after step {} of {}", saved, steps));
  check_runs(ranks, whole.command(steps, mesh));
  check_same_steps(run, whole);
  BOOST_CHECK_MESSAGE(run.trained() == whole.trained(), "the weights differ");
  // The lines of earlier steps stay byte for byte.
  std::size_t kept = 0;
  for (int64_t i = 0; i < saved; ++i) kept = before.find('\n', kept) + 1;
  BOOST_CHECK(run.lines().substr(0, kept) == before.substr(0, kept));
}

/// Flips one bit in the middle of a file.
void damage(const std::string& path) {
  std::string bytes = read_bytes(path);
  bytes[bytes.size() / 2] ^= 1;
  write_bytes(path, bytes);
}

}  // namespace

BOOST_AUTO_TEST_CASE(one_rank_goes_on_bitwise) { check_bitwise(1, {}, {"--save-every", "5"}); }

BOOST_AUTO_TEST_CASE(two_ranks_go_on_bitwise) {
  check_bitwise(2, {}, {"--save-every", "5", "--checkpoint-async", "on"});
}

BOOST_AUTO_TEST_CASE(four_ranks_go_on_bitwise) {
  check_bitwise(4, {"--cp", "2", "--tp", "2"}, {"--save-every", "5"});
  check_bitwise(4, {"--tp", "2"}, {"--save-every", "5", "--checkpoint-async", "on"});
}

BOOST_AUTO_TEST_CASE(another_mesh_goes_on_with_the_same_losses) {
  const Words exact = {"--dtype", "float32", "--save-every", "3"};
  const Run run, whole;
  run.go(4, 3, exact + Words{"--tp", "2"});
  run.go(1, 6, exact);
  const auto result = run.go(2, 9, exact + Words{"--cp", "2"});
  CHECK_CONTAINS(result.err, "goes on after step 6 of 9");
  whole.go(1, 9, exact);
  check_same_steps(run, whole, 1e-5);
}

BOOST_AUTO_TEST_CASE(a_damaged_checkpoint_gives_way_to_the_one_before) {
  const Run run, whole;
  run.go(2, 6, {"--save-every", "2"});
  damage(step_folder(run, 6) + "/shard-00001.h5");
  check_bad_input(1, run.command(8, {"--resume", step_folder(run, 6)}),
                  {"step-00000006", "shard-00001.h5"});
  const auto result = run.go(2, 8, {"--save-every", "2"});
  CHECK_CONTAINS(result.err, "warning: ");
  CHECK_CONTAINS(result.err, "step-00000006");
  CHECK_CONTAINS(result.err, "goes on after step 4 of 8");
  whole.go(2, 8);
  check_same_steps(run, whole);
  BOOST_CHECK(run.trained() == whole.trained());

  fs::resize_file(step_folder(run, 8) + "/shard-00000.h5", 100);
  const auto shorter = run.go(2, 8, {"--save-every", "2"});
  CHECK_CONTAINS(shorter.err, "step-00000008 is not complete");
  CHECK_CONTAINS(shorter.err, "goes on after step 6 of 8");
  check_same_steps(run, whole);

  for (const int64_t step : saved_steps(run)) fs::remove(step_folder(run, step) + "/manifest.json");
  const std::string lines = run.lines();
  check_bad_input(2, run.command(9), {"no checkpoint", "is complete", "remove the folder"});
  BOOST_CHECK(run.lines() == lines);
}

BOOST_AUTO_TEST_CASE(what_resume_takes) {
  const Run run, other;
  run.go(1, 4, {"--save-every", "2", "--resume", "none"});
  check_bad_input(2, run.command(4, {"--resume", "none"}), {run.output, "holds a run already"});
  const std::string lines = run.lines();
  const auto complete = run.go(2, 4);
  CHECK_CONTAINS(complete.err, "the run is complete after step 4 of 4");
  BOOST_CHECK(run.lines() == lines);

  check_bad_input(2, run.command(6, {"--resume", step_folder(run, 2)}),
                  {"goes back to step 2", "step-00000004 is newer"});
  check_bad_input(1, run.command(6, {"--resume", run.model}), {"--resume " + run.model, "is no checkpoint"});
  check_bad_input(1, run.command(6, {"--resume", "maybe"}), {"--resume maybe is no checkpoint"});

  const auto branch = other.go(1, 6, {"--resume", step_folder(run, 2)});
  CHECK_CONTAINS(branch.err, "goes on after step 2 of 6");
  CHECK_CONTAINS(branch.err, "steps up to 2 are absent");
  BOOST_REQUIRE_EQUAL(metrics(other).size(), 4u);
  BOOST_CHECK_EQUAL(metrics(other)[1].at("loss"), metrics(run)[3].at("loss"));
  check_bad_input(1, other.command(6, {"--resume", run.output}),
                  {other.output, "holds a run already", "--resume auto"});
  fs::remove_all(other.output);
  const Words branched = {"--resume", run.output, "--save-every", "1"};
  other.go(1, 5, branched);
  const auto again = other.go(1, 6, branched);
  CHECK_CONTAINS(again.err, "goes on after step 5 of 6, from " + step_folder(other, 5));
  for (const std::string& name : {run.output, checkpoints_of(run), checkpoints_of(run) + "/latest"}) {
    fs::remove_all(other.output);
    const auto result = other.go(1, 5, {"--resume", name});
    CHECK_CONTAINS(result.err, "goes on after step 4 of 5");
  }
}

BOOST_AUTO_TEST_CASE(what_is_changed_is_named) {
  const Run run;
  run.go(1, 2, {"--save-every", "2"});
  const auto changed = run.go(1, 4, {"--batch-sequences", "6", "--seed", "4"});
  CHECK_CONTAINS(changed.err, "--batch-sequences was 8 when the checkpoint was saved and is 6 now");
  CHECK_CONTAINS(changed.err, "--seed was 3 when the checkpoint was saved and is 4 now");
  check_bad_input(1, run.command(4, {"--optimizer", "sgd"}), {"optimizer state exp_avg", "--optimizer"});
}

BOOST_AUTO_TEST_CASE(what_is_changed_is_named_in_the_words_of_the_options) {
  const Inputs run;
  check_runs(1, run.train({"--save-every", "2"}));
  run.write_data(at::tensor({1, 2, 3, 4}, at::kInt), at::tensor({0, 4}));
  const auto changed = run_archon(run.train({"--steps", "3", "--aggregate", "sequence-mean"}));
  BOOST_REQUIRE_MESSAGE(changed.exit_code == 0, changed.err);
  CHECK_CONTAINS(changed.err,
                 "--aggregate was token-mean when the checkpoint was saved and is sequence-mean now");
  CHECK_CONTAINS(changed.err,
                 "--data had 6 sequences when the checkpoint was saved and has 1 now");
  BOOST_CHECK(!contains(changed.err, "data-sequences"));
}

BOOST_AUTO_TEST_CASE(a_run_goes_on_with_its_own_model_only) {
  const Inputs run, other;
  check_runs(1, run.train({"--save-every", "2"}));
  const auto go_on = [&](const std::string& model) {
    return run.train({"--steps", "3", "--save-hf", "off", "--model", model});
  };
  other.edit_config([](Json& config) { config["rms_norm_eps"] = 0.5; });
  const std::string trained = read_bytes(run.output + "/hf/model.safetensors");
  const std::string lines = read_bytes(run.output + "/metrics.jsonl");
  check_bad_input(2, go_on(other.model),
                  {step_folder(run, 2), "another model (rms_norm_eps is 1e-06 there and 0.5 in --model " +
                                            other.model + ")"});
  BOOST_CHECK(read_bytes(run.output + "/metrics.jsonl") == lines);
  BOOST_CHECK(read_bytes(run.output + "/hf/model.safetensors") == trained);

  // What does not make it another model, and what a checkpoint says of its own.
  other.edit_config([](Json& config) {
    config["rms_norm_eps"] = 1e-6;
    config["torch_dtype"] = "bfloat16";
    config["transformers_version"] = "0";
  });
  check_runs(1, go_on(other.model));
  check_runs(1, go_on(step_folder(run, 2)));
}

BOOST_AUTO_TEST_CASE(another_file_of_data_is_named) {
  const Inputs run;
  check_runs(1, run.train({"--save-every", "2"}));
  const std::string moved = run.folder / "moved.h5";
  fs::rename(run.data, moved);
  const auto result = run_archon(run.train({"--steps", "3", "--data", moved}));
  BOOST_REQUIRE_MESSAGE(result.exit_code == 0, result.err);
  CHECK_CONTAINS(result.err, fmt::format("--data was {} when the checkpoint was saved and is {} now",
                                         run.data, moved));
}

BOOST_AUTO_TEST_CASE(old_checkpoints_are_removed) {
  const Run run;
  run.go(2, 5, {"--save-every", "1", "--keep", "2", "--checkpoint-async", "on"});
  BOOST_CHECK((saved_steps(run) == std::vector<int64_t>{4, 5}));
  BOOST_CHECK_EQUAL(latest_step(run), 5);
  for (const auto& entry : fs::directory_iterator(checkpoints_of(run)))
    BOOST_CHECK(!entry.path().filename().string().starts_with("."));
}

BOOST_AUTO_TEST_CASE(what_an_interrupted_save_left_goes_when_its_run_goes_on) {
  const Run run;
  run.go(1, 2, {"--save-every", "2"});
  const std::string left = checkpoints_of(run) + "/.step-00000004.tmp";
  fs::create_directories(left);
  write_bytes(left + "/shard-00000.h5", "half of it");
  write_bytes(checkpoints_of(run) + "/.gitignore", "not Archon's");
  check_bad_input(1, run.command(4, {"--resume", "none"}), {"holds a run already"});
  BOOST_CHECK(fs::exists(left + "/shard-00000.h5"));
  run.go(1, 3);  // which saves nothing
  BOOST_CHECK(!fs::exists(left));
  BOOST_CHECK(fs::exists(checkpoints_of(run) + "/.gitignore"));
}

BOOST_AUTO_TEST_CASE(two_runs_do_not_share_a_folder) {
  const Run run;
  const auto first = act_during(
      2, run.command(1'000'000), [&] { return has_lines(run); },
      [&] {
        check_bad_input(1, run.command(3),
                        {"the folder " + run.output + " is in use by another run (process "});
        ::kill(find_rank(run.output, 0), SIGKILL);
      });
  BOOST_CHECK_EQUAL(first.exit_code, 128 + SIGKILL);
  run.go(1, 3);
}

BOOST_AUTO_TEST_CASE(what_the_last_step_could_not_write_into_is_said_at_the_start) {
  const Run run;
  fs::create_directories(run.output);
  for (const char* name : {"hf", "checkpoints"}) {
    const std::string path = run.output + "/" + name;
    write_bytes(path, "a file");
    check_bad_input(2, run.command(3, {"--save-every", "3"}), {path});
    fs::remove(path);
  }
}

BOOST_AUTO_TEST_CASE(a_checkpoint_whose_config_is_damaged_is_passed_over) {
  const Run run;
  run.go(1, 4, {"--save-every", "2"});
  damage(step_folder(run, 4) + "/config.json");
  const auto resumed = run.go(1, 5);
  CHECK_CONTAINS(resumed.err, "step-00000004/config.json is damaged");
  CHECK_CONTAINS(resumed.err, "goes on after step 2 of 5");
}

BOOST_AUTO_TEST_CASE(checkpoints_that_cannot_be_reached_are_not_none) {
  const Run run;
  run.go(1, 2, {"--save-every", "2"});
  const std::string lines = run.lines(), trained = run.trained();
  fs::remove_all(checkpoints_of(run));
  for (const char* leads_nowhere : {"absent", "checkpoints"}) {
    fs::create_symlink(leads_nowhere, checkpoints_of(run));
    check_bad_input(1, run.command(4), {"cannot list " + checkpoints_of(run) + " (a link): "});
    BOOST_CHECK(run.lines() == lines);
    BOOST_CHECK(run.trained() == trained);
    fs::remove(checkpoints_of(run));
  }
}

// The checkpoint that the model is taken from goes while the run trains.
BOOST_AUTO_TEST_CASE(saves_do_not_need_the_folder_of_the_model) {
  const Run run;
  write_bytes(run.model + "/tokenizer.json", "{}");
  run.go(1, 1, {"--save-every", "1"});
  run.go(1, 3, {"--model", run.output, "--save-every", "1", "--keep", "1"});
  BOOST_CHECK((saved_steps(run) == std::vector<int64_t>{3}));
  for (const std::string& saved : {step_folder(run, 3), run.output + "/hf"})
    BOOST_CHECK_EQUAL(read_bytes(saved + "/tokenizer.json"), "{}");
}

BOOST_AUTO_TEST_CASE(a_failed_save_does_not_end_the_run) {
  const Run run;
  const Words command = run.command(5, {"--save-every", "2"});
  const auto early = run_archon_ranks(2, command, {{"ARCHON_FAIL_CHECKPOINT", "sync:1:1"}});
  BOOST_CHECK_EQUAL(early.exit_code, 0);
  CHECK_CONTAINS(early.err, "no checkpoint of step 2");
  CHECK_CONTAINS(early.err, "there is none yet");
  BOOST_CHECK((saved_steps(run) == std::vector<int64_t>{4, 5}));

  fs::remove_all(run.output);
  const auto late = run_archon_ranks(2, command, {{"ARCHON_FAIL_CHECKPOINT", "space:0:3"}});
  BOOST_CHECK_EQUAL(late.exit_code, 3);
  CHECK_CONTAINS(late.err, "error: the last checkpoint, of step 5, was not written");
  CHECK_CONTAINS(late.err, "the newest good one is " + step_folder(run, 4));
  BOOST_CHECK((saved_steps(run) == std::vector<int64_t>{2, 4}));
  BOOST_CHECK(fs::exists(run.output + "/hf/model.safetensors"));
  const auto again = run.go(2, 5);
  CHECK_CONTAINS(again.err, "goes on after step 4 of 5");
}

BOOST_AUTO_TEST_CASE(metrics_go_on_whatever_a_crash_left) {
  const Run run, whole;
  run.go(1, 4, {"--save-every", "2"});
  whole.go(1, 6);
  fs::remove_all(step_folder(run, 4));
  fs::resize_file(run.output + "/metrics.h5", fs::file_size(run.output + "/metrics.h5") / 2);
  write_bytes(run.output + "/metrics.jsonl", run.lines() + "{\"step\":5,\"lo");
  run.go(1, 6, {"--eval-data", run.data, "--eval-every", "3"});
  check_same_steps(run, whole);

  const auto file = h5::File::open(run.output + "/metrics.h5");
  const auto rows = metrics(run);
  for (const auto& [name, value] : rows.back().items()) {
    const at::Tensor column = file.read("/" + name, at::kDouble);
    BOOST_REQUIRE_EQUAL(column.numel(), 6);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const double stored = column.const_data_ptr<double>()[i];
      const Json line = rows[i].value(name, Json());
      BOOST_CHECK_MESSAGE(line.is_number() ? line.get<double>() == stored : std::isnan(stored),
                          name << " of step " << i + 1 << ": " << line << " and " << stored);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_record_covers_the_steps_that_are_run_now) {
  const Run run;
  const std::string record = run.folder / "record.h5";
  run.go(1, 2, {"--save-every", "2"});
  const auto some = run.go(1, 4, {"--record", record, "--record-steps", "2-3"});
  CHECK_CONTAINS(some.err, "--record-steps 2-3: steps up to 2 were run before");
  BOOST_CHECK(!h5::File::open(record).has("/steps/000002/loss"));
  BOOST_CHECK(h5::File::open(record).has("/steps/000003/loss"));
}

// Steps that an option names beyond the last one are no reason to refuse a run that is complete.
BOOST_AUTO_TEST_CASE(a_complete_run_says_so_whatever_it_was_to_record) {
  const Run run;
  const Words more = {"--save-every", "2", "--record", run.folder / "record.h5", "--record-steps",
                      "1-20", "--profile", run.folder / "trace.json"};
  run.go(1, 2, more);
  const auto again = run.go(1, 2, more);
  CHECK_CONTAINS(again.err, "the run is complete after step 2 of 2");
  CHECK_CONTAINS(again.err, "trace.json is not written");
  BOOST_CHECK(h5::File::open(run.folder / "record.h5").has("/steps/000002/loss"));
}
