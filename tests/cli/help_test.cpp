// What the help says, and that it says all.
#include <regex>

#include "archon/base/version.hpp"
#include "cli_support.hpp"

using namespace archon::test;

namespace {

const std::vector<std::string> kCommands = {"train",  "eval",    "forward", "generate",
                                            "reward", "init",    "diff",    "inspect",
                                            "doctor", "plugins", "plan",    "export"};

}  // namespace

BOOST_AUTO_TEST_CASE(program_help_lists_every_command) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{}, {"--help"}, {"-h"}}) {
    const auto result = run_archon(arguments);
    BOOST_CHECK_EQUAL(result.exit_code, 0);
    for (const std::string& command : kCommands) CHECK_CONTAINS(result.out, "\n  " + command + " ");
    CHECK_CONTAINS(result.out, "Exit codes: 0 done, 1 comparison failed, 2 wrong usage");
  }
}

BOOST_AUTO_TEST_CASE(version) {
  const auto result = run_archon({"--version"});
  BOOST_CHECK_EQUAL(result.exit_code, 0);
  BOOST_CHECK_EQUAL(result.out, std::string("archon ") + archon::version() + "\n");
}

BOOST_AUTO_TEST_CASE(every_option_of_the_contract_is_in_the_help) {
  const std::map<std::string, std::vector<std::string>> options = {
      {"train",
       {"model",
        "data",
        "output",
        "loss",
        "eps-clip",
        "eps-clip-higher",
        "dual-clip",
        "behaviour-weight-cap",
        "ratio",
        "proximal",
        "value-eps-clip",
        "data-wait",
        "aggregate",
        "aggregate-length",
        "temperature",
        "sapo-tau-positive",
        "sapo-tau-negative",
        "entropy-coefficient",
        "kl-coefficient",
        "kl-estimator",
        "kl-in",
        "reference",
        "reward-norm",
        "reward-std",
        "reward-bias",
        "reward-scale",
        "reward-clip",
        "overlong-length",
        "overlong-buffer",
        "overlong-penalty",
        "gamma",
        "gae-lambda",
        "whiten-advantages",
        "critic",
        "value-error",
        "huber-delta",
        "dpo-beta",
        "dpo-label-smoothing",
        "steps",
        "epochs",
        "resume",
        "save-every",
        "save-minutes",
        "checkpoint-async",
        "checkpoint-layout",
        "checkpoint-compression",
        "keep",
        "publish",
        "publish-every",
        "publish-keep",
        "push-weights",
        "push-every",
        "push-wait",
        "push-bucket-size",
        "record",
        "record-steps",
        "record-what",
        "profile",
        "profile-steps",
        "batch-sequences",
        "micro-batch-tokens",
        "shuffle",
        "max-sequence",
        "pad-limit",
        "optimizer",
        "lr",
        "beta1",
        "beta2",
        "eps",
        "weight-decay",
        "no-decay",
        "clip-grad-norm",
        "max-skipped-steps",
        "lr-schedule",
        "warmup-steps",
        "min-lr-ratio",
        "shard",
        "reshard-after-forward",
        "activation-checkpointing",
        "mlp-tile-tokens",
        "activation-offload",
        "eval-data",
        "eval-every",
        "save-hf",
        "max-shard-size",
        "dp",
        "cp",
        "tp",
        "dtype",
        "seed",
        "device",
        "deterministic",
        "plugin",
        "config",
        "log-level",
        "collective-timeout",
        "threads"}},
      {"eval",
       {"model", "data", "shard", "micro-batch-tokens", "max-sequence", "pad-limit", "dp", "cp",
        "tp", "dtype", "seed", "device", "deterministic", "plugin", "config", "log-level",
        "collective-timeout", "threads"}},
      {"forward",
       {"model",
        "data",
        "output",
        "what",
        "temperature",
        "shard",
        "micro-batch-tokens",
        "max-sequence",
        "pad-limit",
        "dp",
        "cp",
        "tp",
        "dtype",
        "seed",
        "device",
        "deterministic",
        "plugin",
        "config",
        "log-level",
        "collective-timeout",
        "threads"}},
      {"generate",
       {"model",
        "data",
        "output",
        "group-size",
        "max-new-tokens",
        "stop-tokens",
        "temperature",
        "top-k",
        "top-p",
        "batch-sequences",
        "cache-tokens",
        "micro-batch-tokens",
        "dp",
        "cp",
        "tp",
        "dtype",
        "seed",
        "deterministic",
        "plugin",
        "config",
        "log-level",
        "collective-timeout",
        "threads"}},
      {"init", {"config", "seed", "output", "dtype", "max-shard-size", "plugin"}},
      {"diff", {"rtol", "atol", "tolerances", "only", "ignore", "json", "rows", "config"}},
      {"export", {"checkpoint", "output", "dtype", "max-shard-size", "plugin", "config"}},
      {"inspect", {"verify", "config"}},
      {"plan",
       {"model",
        "data",
        "batch-sequences",
        "micro-batch-tokens",
        "max-sequence",
        "pad-limit",
        "dtype",
        "optimizer",
        "shard",
        "reshard-after-forward",
        "activation-checkpointing",
        "mlp-tile-tokens",
        "activation-offload",
        "dp",
        "cp",
        "tp",
        "world-size",
        "memory-per-rank",
        "device",
        "gpu",
        "gpus-per-node",
        "nic-gbps",
        "json",
        "plugin",
        "config"}},
      {"reward",
       {"data", "reward", "reward-command", "reward-timeout", "output", "plugin", "config"}},
      {"doctor", {"plugin", "config", "log-level", "collective-timeout", "threads"}},
      {"plugins", {"plugin", "config"}}};
  for (const std::string& command : kCommands) {
    const auto result = run_archon({command, "--help"});
    BOOST_CHECK_EQUAL(result.exit_code, 0);
    CHECK_CONTAINS(result.out, "archon " + command + ": ");
    CHECK_CONTAINS(result.out, "Usage: archon " + command);
    CHECK_CONTAINS(result.out, "Examples:");
    const std::regex entry("^  --([a-z0-9-]+)", std::regex::multiline);
    std::vector<std::string> described;
    for (std::sregex_iterator at(result.out.begin(), result.out.end(), entry), end; at != end; ++at)
      described.push_back((*at)[1]);
    auto expected = options.at(command);
    std::sort(described.begin(), described.end());
    std::sort(expected.begin(), expected.end());
    BOOST_CHECK_EQUAL_COLLECTIONS(described.begin(), described.end(), expected.begin(),
                                  expected.end());
  }
}

BOOST_AUTO_TEST_CASE(help_shows_the_defaults_of_the_contract) {
  const std::string help = run_archon({"train", "--help"}).out;
  const auto default_of = [&](const std::string& option) {
    const auto begin = help.find("\n  --" + option + " ");
    const auto open = help.find('[', begin);
    return help.substr(open, help.find(']', open) - open + 1);
  };
  const std::map<std::string, std::string> defaults = {{"batch-sequences", "[32]"},
                                                       {"micro-batch-tokens", "[4096]"},
                                                       {"shuffle", "[on]"},
                                                       {"optimizer", "[adamw]"},
                                                       {"beta1", "[0.9]"},
                                                       {"beta2", "[0.95]"},
                                                       {"eps", "[1e-08]"},
                                                       {"weight-decay", "[0.1]"},
                                                       {"clip-grad-norm", "[1]"},
                                                       {"lr-schedule", "[constant]"},
                                                       {"warmup-steps", "[0]"},
                                                       {"dp", "[-1]"},
                                                       {"cp", "[1]"},
                                                       {"tp", "[1]"},
                                                       {"loss", "[sft]"},
                                                       {"eps-clip", "[0.2]"},
                                                       {"dual-clip", "[0]"},
                                                       {"behaviour-weight-cap", "[0]"},
                                                       {"proximal", "[auto]"},
                                                       {"aggregate", "[token-mean]"},
                                                       {"kl-coefficient", "[0]"},
                                                       {"entropy-coefficient", "[0]"},
                                                       {"whiten-advantages", "[off]"},
                                                       {"pad-limit", "[64]"},
                                                       {"dtype", "[float32]"},
                                                       {"resume", "[auto]"},
                                                       {"save-every", "[0]"},
                                                       {"checkpoint-async", "[off]"},
                                                       {"checkpoint-layout", "[shards]"},
                                                       {"keep", "[0]"},
                                                       {"publish-every", "[1]"},
                                                       {"publish-keep", "[2]"},
                                                       {"push-every", "[1]"},
                                                       {"push-wait", "[on]"},
                                                       {"push-bucket-size", "[64MiB]"},
                                                       {"collective-timeout", "[600]"}};
  for (const auto& [option, value] : defaults)
    BOOST_CHECK_MESSAGE(default_of(option) == value,
                        option << " has " << default_of(option) << ", not " << value);
}

BOOST_AUTO_TEST_CASE(commands_without_mpi_start_fast) {
  run_archon({"--version"});  // reads the libraries from the disk
  BOOST_CHECK_LT(run_archon({"diff", "--help"}).seconds, 5.0);
}

BOOST_AUTO_TEST_CASE(only_rank_0_prints) {
  const auto result = run_archon_ranks(2, {"--version"});
  BOOST_CHECK_EQUAL(result.exit_code, 0);
  BOOST_CHECK_EQUAL(result.out, std::string("archon ") + archon::version() + "\n");
}
