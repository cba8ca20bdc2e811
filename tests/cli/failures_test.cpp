// Jobs that fail while they run: they end within seconds, with a reason and the right exit code.
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <signal.h>

#include <future>

#include "inputs.hpp"
#include "support/file_size_limit.hpp"
#include "support/rollout_file.hpp"

using namespace archon;
using namespace archon::test;
namespace fs = std::filesystem;

namespace {

constexpr int64_t kSequences = 24, kLength = 20;

/// Sequences of equal length, with the token `id` in one of them.
void write_sequences(const Inputs& inputs, int64_t sequence = 0, int64_t id = 1) {
  at::Tensor ids = at::full({kSequences * kLength}, 1, at::kInt);
  ids.mutable_data_ptr<int>()[sequence * kLength + 5] = static_cast<int>(id);
  inputs.write_data(ids, at::arange(0, kSequences * kLength + 1, kLength, at::kLong));
}

/// No gradient of such weights is finite.
void spoil_a_weight(const Inputs& inputs) {
  inputs.edit_weights([](Json& header, std::string& values) {
    const uint32_t nan = 0x7fc00000;
    const auto begin = header["model.norm.weight"]["data_offsets"][0].get<std::size_t>();
    std::memcpy(values.data() + begin, &nan, sizeof nan);
  });
}

/// A training run without an end, of which one rank gets a signal after its first steps.
struct Interrupted {
  ProcessResult result;
  double seconds_after_signal = 0;
};

Interrupted interrupt(const Inputs& inputs, int ranks, int rank, int signal,
                      const std::vector<std::string>& options) {
  auto arguments = inputs.train({"--batch-sequences", "8", "--steps", "1000000"});
  arguments.insert(arguments.end(), options.begin(), options.end());
  auto run = std::async(std::launch::async, run_archon_ranks, ranks, arguments,
                        std::map<std::string, std::string>());
  while (run.wait_for(std::chrono::milliseconds(20)) != std::future_status::ready)
    if (read_bytes(inputs.output + "/metrics.jsonl").find('\n') != std::string::npos) break;
  const pid_t victim = find_rank(inputs.output, rank);
  const auto begin = std::chrono::steady_clock::now();
  BOOST_REQUIRE_MESSAGE(victim > 0 && ::kill(victim, signal) == 0, "there is no rank " << rank);
  Interrupted interrupted{run.get()};
  interrupted.seconds_after_signal =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return interrupted;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_killed_rank_ends_the_job_and_the_others_say_where_they_stand) {
  const Inputs inputs;
  write_sequences(inputs);
  const auto [result, seconds] = interrupt(inputs, 4, 2, SIGKILL, {"--cp", "2", "--tp", "2"});
  BOOST_CHECK_EQUAL(result.exit_code, 128 + SIGKILL);
  BOOST_CHECK_LT(seconds, 10);
  for (const int rank : {0, 1, 3})
    CHECK_CONTAINS(result.err, fmt::format("archon[{}]: ended by SIGTERM: ", rank));
  CHECK_CONTAINS(result.err, " over ");
  CHECK_CONTAINS(result.err, "(number ");
  BOOST_CHECK_EQUAL(find_rank(inputs.output, 0), 0);
}

BOOST_AUTO_TEST_CASE(a_stopped_rank_is_found_by_the_time_out_of_the_others) {
  const Inputs inputs;
  write_sequences(inputs);
  const auto [result, seconds] =
      interrupt(inputs, 4, 1, SIGSTOP, {"--tp", "2", "--collective-timeout", "3"});
  BOOST_CHECK_EQUAL(result.exit_code, 3);
  BOOST_CHECK_GT(seconds, 2.5);
  BOOST_CHECK_LT(seconds, 12);
  for (const int rank : {0, 2, 3})
    CHECK_CONTAINS(result.err, fmt::format("archon[{}]: error: a collective waited longer than "
                                           "--collective-timeout 3 s: inside ",
                                           rank));
  BOOST_CHECK_EQUAL(find_rank(inputs.output, 1), 0);
}

BOOST_AUTO_TEST_CASE(a_job_ended_from_outside_says_where_it_stood) {
  const Inputs inputs;
  write_sequences(inputs);
  const auto [result, seconds] = interrupt(inputs, 2, 1, SIGTERM, {});
  BOOST_CHECK_EQUAL(result.exit_code, 128 + SIGTERM);
  BOOST_CHECK_LT(seconds, 10);
  for (const int rank : {0, 1})
    CHECK_CONTAINS(result.err, fmt::format("archon[{}]: ended by SIGTERM: ", rank));
}

// Neighbouring sequences go to different dp ranks, so each rank is once the one that throws.
BOOST_AUTO_TEST_CASE(a_rank_that_throws_ends_the_job_with_its_reason) {
  const Inputs inputs;
  std::string speakers;
  for (const int64_t sequence : {kSequences - 2, kSequences - 1}) {
    write_sequences(inputs, sequence, 256);
    const auto result = run_archon_ranks(
        2, inputs.train({"--steps", "100", "--batch-sequences", "2", "--shuffle", "off"}));
    BOOST_CHECK_EQUAL(result.exit_code, 2);
    BOOST_CHECK_LT(result.seconds, 20);
    CHECK_CONTAINS(result.err, fmt::format("(sequence {}, token 5)", sequence));
    BOOST_CHECK_EQUAL(metrics(inputs).size(), kSequences / 2 - 1);  // found late
    for (const char* rank : {"[0]", "[1]"})
      if (contains(result.err, fmt::format("archon{}: error: ", rank))) speakers += rank;
  }
  BOOST_CHECK_MESSAGE(contains(speakers, "[0]") && contains(speakers, "[1]"), speakers);
}

BOOST_AUTO_TEST_CASE(weights_that_are_not_finite_skip_every_step) {
  const Inputs inputs;
  spoil_a_weight(inputs);
  const auto result = run_archon_ranks(2, inputs.train({"--tp", "2"}));
  BOOST_CHECK_EQUAL(result.exit_code, 0);
  BOOST_CHECK_EQUAL(count(result.err, "the gradient norm is nan: no step is taken"), 2);
  BOOST_REQUIRE_EQUAL(metrics(inputs).size(), 2u);
  BOOST_CHECK(metrics(inputs)[1].at("loss").is_null());
  const auto equal = run_archon({"diff", inputs.model, inputs.output + "/hf"});
  CHECK_CONTAINS(equal.out, "25 equal");
  BOOST_CHECK_EQUAL(equal.exit_code, 0);
}

BOOST_AUTO_TEST_CASE(many_skipped_steps_in_a_row_end_the_run) {
  const Inputs inputs;
  spoil_a_weight(inputs);
  const auto ended =
      run_archon_ranks(2, inputs.train({"--steps", "5", "--max-skipped-steps", "3"}));
  BOOST_CHECK_EQUAL(ended.exit_code, 3);
  BOOST_CHECK_EQUAL(count(ended.err, "error: "), 1);
  CHECK_CONTAINS(ended.err, "error: the gradient norm was not finite at 3 steps in a row (step 3:");
  CHECK_CONTAINS(ended.err, "--max-skipped-steps");
  BOOST_REQUIRE_EQUAL(metrics(inputs).size(), 3u);
  for (const Json& row : metrics(inputs)) BOOST_CHECK_EQUAL(row.at("skipped").get<int>(), 1);

  const auto by_default = run_archon(inputs.train({"--steps", "12"}));
  BOOST_CHECK_EQUAL(by_default.exit_code, 3);
  BOOST_CHECK_EQUAL(metrics(inputs).size(), 10u);
  // What was to be recorded before is there.
  const std::string record = inputs.folder / "record.h5";
  const auto recorded =
      run_archon(inputs.train({"--steps", "12", "--record", record, "--record-steps", "1-2"}));
  BOOST_CHECK_EQUAL(recorded.exit_code, 3);
  BOOST_CHECK(h5::File::open(record).has("/steps/000002/loss"));
  const auto never = run_archon(inputs.train({"--steps", "12", "--max-skipped-steps", "0"}));
  BOOST_CHECK_EQUAL(never.exit_code, 0);
  BOOST_CHECK_EQUAL(metrics(inputs).size(), 12u);
}

BOOST_AUTO_TEST_CASE(a_batch_without_targets_takes_no_step) {
  const Inputs inputs;
  const auto good = h5::File::open(test_file("golden/q3_tiny/batch.h5"));
  const at::Tensor ids = good.read("/input_ids");
  inputs.write_data(ids, good.read("/cu_seqlens"),
                    {{"/loss_mask", at::zeros({ids.numel()}, at::kByte)}});
  const auto result = run_archon_ranks(2, inputs.train({"--cp", "2"}));
  BOOST_CHECK_EQUAL(result.exit_code, 0);
  BOOST_CHECK_EQUAL(count(result.err, "no target token: its loss is 0 and no step is taken"), 2);
  BOOST_REQUIRE_EQUAL(metrics(inputs).size(), 2u);
  BOOST_CHECK_EQUAL(metrics(inputs)[1].at("loss").get<double>(), 0.0);
  BOOST_CHECK_EQUAL(
      run_archon({"diff", inputs.model, inputs.output + "/hf", "--rtol", "0"}).exit_code, 0);

  RolloutFile pairs;
  pairs.reference = -1;
  for (RolloutFile::Rollout& pair : pairs.rollouts) pair.mask.assign(pair.mask.size(), 0);
  pairs.write(inputs.data);
  fs::remove_all(inputs.output);
  check_runs(1, inputs.train({"--loss", "dpo", "--batch-sequences", "0"}));
  BOOST_CHECK_EQUAL(metrics(inputs)[0].at("loss").get<double>(), 0.0);
}

// A limit on the size of files refuses writes as a full disk does, and needs no privilege. MPI has
// files of some megabytes of its own, so the outputs are larger.
BOOST_AUTO_TEST_CASE(a_full_disk_ends_the_run_with_a_reason) {
  constexpr rlim_t kLimit = 16 << 20;
  constexpr int64_t kTokens = 40'000;
  const Inputs inputs;
  inputs.write_data(at::full({kTokens}, 1, at::kInt), at::arange(0, kTokens + 1, 100, at::kLong));
  const std::string config = inputs.folder / "config.json", record = inputs.folder / "record.h5";
  Json large = read_json_file(inputs.model + "/config.json");
  large["vocab_size"] = 100'000;
  write_bytes(config, large.dump());

  for (const auto& command : std::vector<std::vector<std::string>>{
           inputs.forward({"--what", "logits"}),
           inputs.train({"--record", record, "--batch-sequences", "0"}),
           {"init", "--config", config, "--output", inputs.folder / "large"}}) {
    const auto result = [&] {
      const FileSizeLimit limit(kLimit);
      return run_archon(command);
    }();
    BOOST_TEST_CONTEXT(command.front() << ": " << result.err) {
      BOOST_CHECK_EQUAL(result.exit_code, 3);
      CHECK_CONTAINS(result.err, "archon: error: ");
      CHECK_CONTAINS(result.err, ": File too large\n");
    }
  }
  for (const std::string& path :
       {inputs.output + "/hf", record, inputs.folder / "large/model.safetensors"})
    BOOST_CHECK_MESSAGE(!fs::exists(path), path << " looks complete");
  for (const std::string& name : names_in(inputs.folder.path()))
    BOOST_CHECK_MESSAGE(!name.ends_with(".tmp"), name << " is left");
}
