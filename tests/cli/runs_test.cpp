// Whole runs through the program itself: what they say on the way and leave behind.
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include "archon/base/threads.hpp"
#include "inputs.hpp"

using namespace archon;
using namespace archon::test;
namespace fs = std::filesystem;

namespace {

/// Sequences of 2, 3, 4, ... tokens.
void write_rising_sequences(const Inputs& inputs, int64_t sequences) {
  std::vector<int64_t> offsets = {0};
  for (int64_t i = 0; i < sequences; ++i) offsets.push_back(offsets.back() + 2 + i);
  inputs.write_data(at::full({offsets.back()}, 1, at::kInt), at::tensor(offsets));
}

/// What a run on so many ranks says of its threads, started with these options of mpiexec.
std::string threads_line(const std::vector<std::string>& launch,
                         const std::vector<std::string>& archon) {
  std::vector<std::string> command = {ARCHON_TEST_MPIEXEC, "--oversubscribe"};
  command.insert(command.end(), launch.begin(), launch.end());
  command.insert(command.end(), archon.begin(), archon.end());
  const auto result = run_process(command);
  BOOST_CHECK_EQUAL(result.exit_code, 0);
  const auto begin = result.err.find("threads per rank: ");
  if (begin == std::string::npos) return result.err;
  return result.err.substr(begin, result.err.find('\n', begin) - begin);
}

}  // namespace

// 7 sequences in steps of 3: two full steps and one of a single sequence, in each epoch.
BOOST_AUTO_TEST_CASE(two_epochs_see_every_sequence_twice) {
  const Inputs inputs;
  write_rising_sequences(inputs, 7);
  auto arguments = inputs.train({"--batch-sequences", "3", "--epochs", "2"});
  const auto steps = std::find(arguments.begin(), arguments.end(), "--steps");
  arguments.erase(steps, steps + 2);
  const auto result = run_archon_ranks(2, arguments);
  BOOST_REQUIRE_MESSAGE(result.exit_code == 0, result.err);
  CHECK_CONTAINS(result.err, "7 sequences, 35 tokens; 6 steps of 3 sequences");
  CHECK_CONTAINS(result.err, "step 1/6 ");
  CHECK_CONTAINS(result.err, "step 6/6 ");
  CHECK_CONTAINS(result.err, " % of peak  00:00 left");
  BOOST_CHECK(fs::exists(inputs.output + "/hf/model.safetensors"));
  const auto rows = metrics(inputs);
  BOOST_REQUIRE_EQUAL(rows.size(), 6u);
  for (const std::size_t epoch : {0, 1}) {
    int64_t tokens = 0, targets = 0;
    for (std::size_t step = 3 * epoch; step < 3 * epoch + 3; ++step) {
      tokens += rows[step].at("tokens").get<int64_t>();
      targets += rows[step].at("targets").get<int64_t>();
    }
    BOOST_CHECK_EQUAL(tokens, 35);
    BOOST_CHECK_EQUAL(targets, 28);
  }
}

BOOST_AUTO_TEST_CASE(a_run_says_where_its_threads_come_from) {
  const Inputs inputs;
  const int cores = available_cores();
  auto program = inputs.eval();
  program.insert(program.begin(), archon_program());
  const auto free = [&](std::vector<std::string> launch) {
    launch.insert(launch.end(), {"env", "-u", "OMP_NUM_THREADS"});
    return threads_line(launch, program);
  };
  for (const int ranks : {1, 2, 4})
    BOOST_CHECK_EQUAL(free({"--bind-to", "none", "-n", std::to_string(ranks)}),
                      fmt::format("threads per rank: {} ({})", threads_per_rank(cores, ranks),
                                  describe_cores(cores, ranks)));
  BOOST_CHECK_EQUAL(free({"--bind-to", "core", "-n", "1"}),
                    "threads per rank: 1 (1 core, shared by 1 rank)");
  BOOST_CHECK_EQUAL(threads_line({"-n", "1", "env", "OMP_NUM_THREADS=1"}, program),
                    "threads per rank: 1 (OMP_NUM_THREADS)");
  program.insert(program.end(), {"--threads", "2"});
  BOOST_CHECK_EQUAL(free({"-n", "1"}), "threads per rank: 2 (--threads)");
}

BOOST_AUTO_TEST_CASE(a_profile_holds_the_steps_asked_for) {
  const Inputs inputs;
  const std::string profile = inputs.folder / "trace.json";
  check_runs(2, inputs.train({"--steps", "3", "--profile", profile, "--profile-steps", "2"}));
  const Json trace = Json::parse(read_bytes(profile));
  std::vector<std::string> steps;
  for (const Json& event : trace.at("traceEvents"))
    if (event.value("cat", "") == "step")
      steps.push_back(fmt::format("{} of rank {}", event.at("name").get<std::string>(),
                                  event.at("pid").get<int>()));
  BOOST_CHECK((steps == std::vector<std::string>{"step 2 of rank 0", "step 2 of rank 1"}));

  check_bad_input(2, inputs.train({"--profile", profile, "--profile-steps", "3-4"}),
                  {"--profile-steps 3-4", "last step, 2"});
  check_bad_input(2, inputs.train({"--profile", inputs.folder / "none/trace.json"}),
                  {"none/trace.json", "there is no folder"});
}

BOOST_AUTO_TEST_CASE(patterns_that_name_no_parameter_are_named) {
  const Inputs inputs;
  const auto result = run_archon_ranks(
      2, inputs.train({"--no-decay", "*norm.weight", "--no-decay", "nothing*"}));
  BOOST_REQUIRE_MESSAGE(result.exit_code == 0, result.err);
  BOOST_CHECK_MESSAGE(count(result.err, "--no-decay nothing* names no parameter") == 1, result.err);
  BOOST_CHECK_EQUAL(count(result.err, "--no-decay"), 1);
}

BOOST_AUTO_TEST_CASE(prompts_with_answers_are_named) {
  const Inputs inputs;
  const std::string warning = inputs.data + " has answers in its prompts";
  const auto answers = run_archon(inputs.generate({"--max-new-tokens", "1"}));
  BOOST_CHECK_EQUAL(answers.exit_code, 0);
  CHECK_CONTAINS(answers.err, warning);
  inputs.write_data(at::full({3}, 1, at::kInt), at::tensor(std::vector<int64_t>{0, 3}),
                    {{"/loss_mask", at::full({3}, 0, at::kByte)}});
  const auto prompts = run_archon(inputs.generate({"--max-new-tokens", "1"}));
  BOOST_CHECK_EQUAL(prompts.exit_code, 0);
  BOOST_CHECK(!contains(prompts.err, warning));
}

BOOST_AUTO_TEST_CASE(rollouts_beyond_the_positions_of_the_model_are_named) {
  const Inputs inputs;
  inputs.edit_config([](Json& config) { config["max_position_embeddings"] = 8; });
  inputs.write_data(at::full({5}, 1, at::kInt), at::tensor(std::vector<int64_t>{0, 2, 5}));
  const auto said = [&](const std::string& tokens) {
    const auto result = run_archon_ranks(2, inputs.generate({"--max-new-tokens", tokens}));
    BOOST_CHECK_EQUAL(result.exit_code, 0);
    return count(result.err, "the longest prompt has 3 tokens and --max-new-tokens is " + tokens +
                                 ": together more than the 8 of \"max_position_embeddings\"");
  };
  BOOST_CHECK_EQUAL(said("5"), 0);
  BOOST_CHECK_EQUAL(said("6"), 1);
  inputs.edit_config([](Json& config) { config.erase("max_position_embeddings"); });
  BOOST_CHECK_EQUAL(said("6"), 0);
}

BOOST_AUTO_TEST_CASE(rollouts_name_the_model_that_a_link_led_to) {
  const Inputs inputs;
  const auto model_of = [&](const std::string& given) {
    check_runs(2, inputs.generate({"--model", given, "--max-new-tokens", "1"}));
    return h5::File::open(inputs.output).string_attribute("/", "model").value_or("");
  };
  const std::string link = inputs.folder / "link";
  fs::create_directory_symlink(inputs.model, link);
  BOOST_CHECK_EQUAL(model_of(link), fs::canonical(inputs.model).string());
  BOOST_CHECK_EQUAL(model_of(fs::relative(inputs.model)), fs::relative(inputs.model).string());
}
