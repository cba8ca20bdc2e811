// Options that are wrong are refused by name, value and origin; precedence.
#include <array>
#include <utility>

#include "cli_support.hpp"

using namespace archon::test;

namespace {

const std::vector<std::string> kTrain = {"train",    "--model", "m",       "--data", "d",
                                         "--output", "o",       "--steps", "1"};

ProcessResult train_with(std::vector<std::string> more,
                         const std::map<std::string, std::string>& environment = {}) {
  more.insert(more.begin(), kTrain.begin(), kTrain.end());
  return run_archon(more, environment);
}

}  // namespace

BOOST_AUTO_TEST_CASE(unknown_command) {
  check_refused(run_archon({"trian"}),
                {"unknown command trian (did you mean train?)", "see archon --help"});
  check_refused(run_archon({"zzzzzzzz"}), {"unknown command zzzzzzzz\n"});
}

BOOST_AUTO_TEST_CASE(unknown_option) {
  check_refused(
      train_with({"--warmup-step", "3"}),
      {"unknown option --warmup-step (did you mean --warmup-steps?)", "see archon train --help"});
  check_refused(train_with({"--micro", "3"}), {"(did you mean --micro-batch-tokens?)"});
  check_refused(train_with({"--zzzzzzzz=3"}), {"unknown option --zzzzzzzz\n"});
  check_refused(train_with({"-x"}), {"unknown option -x"});
}

BOOST_AUTO_TEST_CASE(wrong_number_of_arguments) {
  check_refused(train_with({"stray"}), {"unexpected argument \"stray\""});
  check_refused(run_archon({"diff", "a"}), {"missing B"});
  check_refused(run_archon({"diff", "a", "b", "c"}), {"unexpected argument \"c\""});
  check_refused(run_archon({"inspect"}), {"missing FILE|DIR"});
}

BOOST_AUTO_TEST_CASE(missing_options_are_named) {
  check_refused(run_archon({"train", "--model", "m"}), {"missing --data FILE and --output DIR"});
  check_refused(run_archon({"train", "--model", "m", "--data", "d", "--output", "o"}),
                {"missing --steps N or --epochs N"});
  check_refused(run_archon({"init", "--output", "o"}), {"missing --config FILE"});
}

BOOST_AUTO_TEST_CASE(values_are_needed) {
  check_refused(train_with({"--lr"}), {"--lr needs a value"});
  check_refused(train_with({"--lr="}), {"--lr needs a value"});
  check_refused(train_with({"--lr", "--seed", "3"}), {"--lr needs a value"});
  check_refused(run_archon({"diff", "--json=x", "a", "b"}), {"--json takes no value"});
}

BOOST_AUTO_TEST_CASE(an_option_given_twice) {
  check_refused(train_with({"--lr", "1", "--lr=2"}), {"--lr is given twice, as 1 and as 2"});
}

BOOST_AUTO_TEST_CASE(malformed_values) {
  const std::vector<std::array<std::string, 3>> cases = {
      {"--lr", "-1", "a number, 0 or larger"},
      {"--lr", "fast", "a number"},
      {"--lr", "1e-4x", "a number"},
      {"--lr", "nan", "a number"},
      {"--lr", "inf", "a number"},
      {"--epochs", "0", "from 1 to 1000000000"},
      {"--batch-sequences", "-1", "0 or larger"},
      {"--batch-sequences", "1.5", "whole number"},
      {"--batch-sequences", "99999999999999999999", "whole number"},
      {"--micro-batch-tokens", "0", "from 1 to 1099511627776"},
      {"--micro-batch-tokens", "2000000000000", "from 1 to 1099511627776"},
      {"--pad-limit", "0", "from 1 to"},
      {"--max-sequence", "-4", "from 0 to"},
      {"--cp", "0", "1 or larger, or -1"},
      {"--tp", "-2", "1 or larger, or -1"},
      {"--dp", "two", "1 or larger, or -1"},
      {"--dtype", "int8", "float32 or bfloat16"},
      {"--shuffle", "yes", "on or off"},
      {"--loss", "dreams", "sft, critic, grpo, ppo, gspo, sapo or dpo"},
      {"--eps-clip", "1.5", "from 0 to 1"},
      {"--aggregate", "mean", "token-mean, sequence-mean or sequence-sum"},
      {"--kl-estimator", "k4", "k1, k2 or k3"},
      {"--reward-norm", "max", "auto, none, group, batch or leave-one-out"},
      {"--gamma", "1.5", "from 0 to 1"},
      {"--temperature", "0", "1e-6 or larger"},
      {"--data-wait", "-1", "0 or larger"},
      {"--optimizer", "lion", "adamw or sgd"},
      {"--lr-schedule", "step", "constant, linear or cosine"},
      {"--min-lr-ratio", "1.1", "from 0 to 1"},
      {"--beta1", "1", "from 0 to below 1"},
      {"--beta2", "-0.1", "from 0 to below 1"},
      {"--eps", "0", "1e-30 or larger"},
      {"--eps", "1e-46", "1e-30 or larger"},
      {"--weight-decay", "-0.1", "0 or larger"},
      {"--clip-grad-norm", "-1", "0 or larger"},
      {"--value-eps-clip", "-1", "0 or larger"},
      {"--save-every", "-1", "0 or larger"},
      {"--save-minutes", "-0.5", "0 or larger"},
      {"--checkpoint-async", "yes", "on or off"},
      {"--checkpoint-layout", "files", "shards or single"},
      {"--checkpoint-compression", "10", "from 0 to 9"},
      {"--keep", "-1", "0 or larger"},
      {"--record-steps", "0", "FIRST-LAST"},
      {"--record-steps", "5-1", "FIRST-LAST"},
      {"--record-steps", "1-2-3", "FIRST-LAST"},
      {"--record-what", "gradients,", "gradients, weights, activations"},
      {"--max-shard-size", "5 GB", "5GiB"},
      {"--max-shard-size", "0", "5GiB"},
      {"--max-shard-size", "99999999999TB", "5GiB"},
      {"--publish-every", "0", "1 or larger"},
      {"--publish-keep", "-1", "0 or larger"},
      {"--push-every", "0", "1 or larger"},
      {"--push-wait", "yes", "on or off"},
      {"--push-bucket-size", "0", "5GiB"},
      {"--seed", "-1", "0 or larger"},
      {"--threads", "5000", "from 0 to 4096"},
      {"--collective-timeout", "-1", "0 or larger"},
      {"--log-level", "loud", "debug, info, warning or error"}};
  for (const auto& [option, value, allowed] : cases) {
    const auto result = train_with({option, value});
    check_refused(result, {option + " " + value + " must be ", allowed, "see archon train --help"});
  }
  check_refused(train_with({"--eval-data", ""}), {"--eval-data \"\" must not be empty"});
  check_refused(run_archon({"forward", "--model", "m", "--data", "d", "--output", "o", "--what",
                            "logprobs,colours"}),
                {"--what logprobs,colours must be one or more of logprobs, entropy, logits, "
                 "values, hidden"});
}

BOOST_AUTO_TEST_CASE(malformed_values_of_generate) {
  const std::vector<std::array<std::string, 3>> cases = {
      {"--top-p", "0", "a number above 0 and at most 1"},
      {"--top-p", "1.01", "a number above 0 and at most 1"},
      {"--top-k", "-1", "0 or larger"},
      {"--temperature", "-0.5", "0 or larger"},
      {"--temperature", "1e-40", "0, or a number, 1e-6 or larger"},
      {"--group-size", "0", "1 or larger"},
      {"--max-new-tokens", "0", "from 1 to"},
      {"--batch-sequences", "0", "1 or larger"},
      {"--cache-tokens", "-1", "from 0 to"},
      {"--stop-tokens", "1,x", "token ids with commas between them"},
      {"--stop-tokens", "-1", "token ids with commas between them"},
      {"--stop-tokens", "1,,2", "token ids with commas between them"}};
  for (const auto& [option, value, allowed] : cases)
    check_refused(run_archon({"generate", "--model", "m", "--data", "d", "--output", "o", option,
                              value}),
                  {option + " " + value + " must be ", allowed, "see archon generate --help"});
}

BOOST_AUTO_TEST_CASE(options_that_do_not_go_together) {
  check_refused(train_with({"--epochs", "2"}), {"--steps 1 and --epochs 2 are both given"});
  check_refused(train_with({"--eval-every", "2"}), {"--eval-every 2", "--eval-data"});
  check_refused(train_with({"--value-eps-clip", "0.2"}), {"--loss critic"});
  check_refused(train_with({"--loss", "grpo", "--dual-clip", "0.5"}), {"dual-clip", "above 1"});
  check_refused(train_with({"--dual-clip", "3"}), {"--dual-clip 3", "--loss sft", "grpo"});
  check_refused(train_with({"--loss", "sapo", "--eps-clip", "0.1"}),
                {"--eps-clip 0.1", "--loss sapo", "gspo"});
  check_refused(train_with({"--loss", "grpo", "--reference", "m"}),
                {"--reference m", "--kl-coefficient"});
  check_refused(train_with({"--loss", "dpo", "--aggregate", "sequence-mean"}),
                {"--aggregate", "pairs"});
  check_refused(train_with({"--loss", "dpo", "--batch-sequences", "3"}),
                {"--loss dpo takes pairs: --batch-sequences 3 must be even"});
  check_refused(train_with({"--loss", "grpo", "--overlong-length", "8"}),
                {"--overlong-buffer 0 does not lie within --overlong-length 8"});
  check_refused(train_with({"--loss", "critic", "--kl-coefficient", "1"}),
                {"--kl-coefficient 1", "critic with --kl-in reward"});
  check_refused(train_with({"--data-wait", "5"}), {"--data-wait 5", "folder"});
  const std::vector<std::string> single = {"--checkpoint-layout", "single"},
                                 async = {"--checkpoint-async", "on"},
                                 compressed = {"--checkpoint-compression", "3"};
  const auto both = [](std::vector<std::string> first, const std::vector<std::string>& second) {
    first.insert(first.end(), second.begin(), second.end());
    return train_with(first);
  };
  check_refused(both(single, async), {"--checkpoint-layout single", "--checkpoint-async on"});
  check_refused(both(single, compressed),
                {"--checkpoint-layout single", "--checkpoint-compression 3"});
  check_refused(both(async, compressed), {"--checkpoint-async on", "--checkpoint-compression 3"});
  check_refused(train_with({"--keep", "2"}), {"--keep 2", "--save-every"});
  check_refused(train_with({"--push-weights", "archon"}), {"--push-weights archon is no role"});
  check_refused(train_with({"--push-weights", "r", "--push-bucket-size", "2GiB"}),
                {"--push-bucket-size 2147483648", "1GiB"});
}

BOOST_AUTO_TEST_CASE(options_that_a_loss_has_no_use_for) {
  const std::vector<std::array<std::string, 2>> of_rewards = {
      {"--reward-norm", "batch"}, {"--reward-std", "off"},       {"--reward-bias", "1"},
      {"--reward-scale", "2"},    {"--reward-clip", "1"},        {"--overlong-length", "8"},
      {"--overlong-buffer", "4"}, {"--overlong-penalty", "2"},   {"--gamma", "0.9"},
      {"--gae-lambda", "0.9"},    {"--whiten-advantages", "on"}, {"--kl-in", "reward"},
      {"--kl-estimator", "k1"},   {"--huber-delta", "2"}};
  for (const std::string loss : {"sft", "dpo"})
    for (const auto& [option, value] : of_rewards)
      check_refused(train_with({"--loss", loss, option, value}), {option, "--loss " + loss});
  // Those that need another one.
  check_refused(train_with({"--loss", "grpo", "--kl-in", "reward"}),
                {"--kl-in", "--kl-coefficient"});
  check_refused(train_with({"--loss", "grpo", "--kl-estimator", "k1"}),
                {"--kl-estimator", "--kl-coefficient"});
  check_refused(train_with({"--loss", "ppo", "--overlong-buffer", "4"}),
                {"--overlong-buffer", "--overlong-length"});
  check_refused(train_with({"--loss", "ppo", "--overlong-penalty", "2"}),
                {"--overlong-penalty 2", "--overlong-length"});
  check_refused(train_with({"--loss", "critic", "--huber-delta", "2"}),
                {"--huber-delta 2", "--value-error huber"});
  // A critic's rewards may hold what two policies differ by at the temperature of sampling.
  const std::string refused = "--temperature 0.7 does not go with --loss critic";
  check_refused(train_with({"--loss", "critic", "--temperature", "0.7"}), {refused});
  const auto taken = train_with({"--loss", "critic", "--temperature", "0.7", "--kl-in", "reward",
                                 "--kl-coefficient", "0.1", "--kl-estimator", "k1"});
  BOOST_CHECK_MESSAGE(!contains(taken.err, "does not go with"), taken.err);
}

BOOST_AUTO_TEST_CASE(options_are_refused_that_have_no_effect) {
  const std::vector<std::array<std::string, 3>> cases = {
      {"--publish-every", "2", "--publish DIR"},
      {"--publish-keep", "0", "--publish DIR"},
      {"--push-every", "2", "--push-weights ROLE"},
      {"--push-wait", "off", "--push-weights ROLE"},
      {"--push-bucket-size", "1MiB", "--push-weights ROLE"},
      {"--record-steps", "1-2", "--record FILE"},
      {"--record-what", "weights", "--record FILE"},
      {"--profile-steps", "1-2", "--profile FILE"},
      {"--min-lr-ratio", "0.1", "--lr-schedule linear or cosine"}};
  for (const auto& [option, value, owner] : cases)
    check_refused(train_with({option, value}), {option + " belongs to " + owner});
  for (const std::string option : {"--beta1", "--beta2", "--eps"})
    check_refused(train_with({"--optimizer", "sgd", option, "0.5"}),
                  {option + " belongs to --optimizer adamw"});
  check_refused(train_with({"--save-hf", "off", "--max-shard-size", "1GB"}),
                {"--max-shard-size belongs to --save-hf on or --publish DIR"});
  check_refused(train_with({"--loss", "ppo", "--reward-std", "off"}),
                {"--reward-std", "a --reward-norm other than none"});
  check_refused(run_archon({"forward", "--model", "m", "--data", "d", "--output", "o", "--what",
                            "hidden", "--temperature", "2"}),
                {"--temperature 2 is for log-probabilities and entropy"});
  check_refused(run_archon({"plan", "--model", "m", "--data", "d", "--dp", "1", "--max-sequence", "8"}),
                {"--max-sequence 8 says how long sequences are without --data"});
  // What a settings file gives at its default is no mistake: the next thing is.
  check_refused(train_with({"--optimizer", "sgd", "--beta1", "0.9", "--publish-every", "1",
                            "--record-steps", "1", "--eval-every", "2"}),
                {"--eval-every 2 has nothing"});

  const std::vector<std::string> greedy = {
      "generate", "--model", "m", "--data", "d", "--output", "o", "--temperature", "0"};
  for (const auto& [option, value] : {std::pair("--top-k", "5"), std::pair("--top-p", "0.5")}) {
    auto command = greedy;
    command.insert(command.end(), {option, value});
    check_refused(run_archon(command), {std::string(option) + " " + value + " belongs to a"});
  }
  check_refused(
      run_archon({"reward", "--data", "d", "--reward", "arithmetic", "--reward-timeout", "1"}),
      {"--reward-timeout 1 belongs to --reward-command"});
}

BOOST_AUTO_TEST_CASE(environment_goes_before_the_settings_file) {
  const TemporaryFolder folder;
  const std::string file = folder / "run.conf";
  write_bytes(file, "# a comment\n\n  lr = slow # another\nweight-decay=1X#\n");
  // The value that wins is the one that is refused.
  check_refused(train_with({"--config", file}), {"--lr slow (from " + file + ":3) must be"});
  check_refused(train_with({}, {{"ARCHON_CONFIG", file}}), {"--lr slow (from " + file + ":3)"});
  check_refused(train_with({"--config", file}, {{"ARCHON_LR", "fast"}}),
                {"--lr fast (from ARCHON_LR) must be"});
  check_refused(train_with({"--config", file, "--lr", "none"}, {{"ARCHON_LR", "fast"}}),
                {"--lr none must be"});
  check_refused(train_with({"--config", file, "--lr", "1"}, {{"ARCHON_LR", "fast"}}),
                {"--weight-decay 1X# (from " + file + ":4)"});
  check_refused(train_with({}, {{"ARCHON_MICRO_BATCH_TOKENS", "0"}}),
                {"--micro-batch-tokens 0 (from ARCHON_MICRO_BATCH_TOKENS)"});
  check_refused(train_with({"--cp", "0"}, {{"ARCHON_LR", ""}, {"ARCHON_NO_SUCH_OPTION", "1"}}),
                {"--cp 0"});
}

BOOST_AUTO_TEST_CASE(settings_file_can_give_required_options) {
  const TemporaryFolder folder;
  const std::string file = folder / "run.conf";
  write_bytes(file, "model = m\ndata = d\noutput = o\nno-decay = a\nno-decay = b\n");
  check_refused(run_archon({"train", "--config", file}), {"missing --steps N or --epochs N"});
}

BOOST_AUTO_TEST_CASE(malformed_settings_files) {
  const TemporaryFolder folder;
  const std::string file = folder / "run.conf";
  const auto refused = [&](const std::string& text, const std::string& part) {
    write_bytes(file, text);
    check_refused(train_with({"--config", file}), {part});
  };
  refused("lr = 1\nsteps 3\n", file + ":2: \"steps 3\" is not a setting");
  refused("= 3\n", file + ":1: \"= 3\" is not a setting");
  refused("[train]\n", file + ":1: \"[train]\" is not a setting");
  refused("seed = 1\n\nwarmup-step = 3\n",
          file + ":3: unknown key warmup-step (did you mean warmup-steps?)");
  refused("config = other\n", file + ":1: unknown key config");
  refused("lr = 1\nlr = 2\n", file + ":2: lr is set a second time");
  refused("lr =\n", "--lr \"\" (from " + file + ":1) must be");
  check_refused(train_with({"--config", folder / "none"}), {folder / "none"});
}

BOOST_AUTO_TEST_CASE(init_takes_config_for_the_model) {
  // ARCHON_CONFIG means the settings file of the other commands.
  check_refused(run_archon({"init", "--output", "o"}, {{"ARCHON_CONFIG", "run.conf"}}),
                {"missing --config FILE"});
}

BOOST_AUTO_TEST_CASE(every_rank_refuses_and_one_says_it) {
  const auto result = run_archon_ranks(2, {"train", "--steps", "0"});
  BOOST_CHECK_EQUAL(result.exit_code, 2);
  const auto first = result.err.find("--steps 0 must be");
  BOOST_CHECK(first != std::string::npos);
  BOOST_CHECK(result.err.find("--steps 0 must be", first + 1) == std::string::npos);
}
