#include <iostream>

#include "archon/engine/rewards.hpp"
#include "archon/model/plugin_loader.hpp"
#include "command.hpp"

namespace archon::cli {
namespace {

class RewardCommand : public LocalCommand {
  void declare(OptionSet& options) override {
    options.group("Options");
    options.require("data", text(data_, "FILE"),
                    "HDF5 rollouts: a token dataset with /loss_mask and /group_ids");
    options.add("reward", text(source_.function, "NAME|FILE"),
                "a plugin's reward function: its name, or a plugin (a file that ends in .so) that "
                "brings one");
    options.add(
        "reward-command", text(source_.command, "COMMAND"),
        "a program, started by /bin/sh -c, in place of a function: it reads a JSON object a "
        "line and prints a number a line");
    options.add("reward-timeout", number(source_.silence_timeout, kNotNegative, "SECONDS"),
                "kill the program when it neither reads nor answers for so long; 0 = never");
    options.add("output", text(output_, "FILE"),
                "where to write the rollouts with their rewards, in place of --data itself");
    add_plugin_option(options, plugins_);
    options.add_settings_file();
  }

  void check() const override {
    ARCHON_VALIDATE(source_.function.empty() != source_.command.empty(),
                    "{} of --reward and --reward-command; rewards come from one of them",
                    source_.function.empty() ? "give one" : "both are given");
    ARCHON_VALIDATE(
        !source_.command.empty() || source_.silence_timeout == RewardSource().silence_timeout,
        "--reward-timeout {:g} belongs to --reward-command: a function is waited for; "
        "leave it out",
        source_.silence_timeout);
  }

  std::string details() const override {
    return "Adds /rewards to a file of rollouts, one number for each sequence, and prints their\n"
           "number and mean as JSON. The file is replaced by a whole new one, or stays as it is.\n"
           "The program is given lines {\"index\": N, \"group\": N, \"prompt\": [TOKENS],\n"
           "\"completion\": [TOKENS]} and answers each, in order, with a line that is a number or\n"
           "{\"reward\": NUMBER}.";
  }

  std::vector<std::pair<std::string, std::string>> examples() const override {
    return {{"archon reward --data rollouts.h5 --reward arithmetic", "by a function's name"},
            {"archon reward --data rollouts.h5 --reward ./mine.so", "by a plugin of your own"},
            {"archon reward --data rollouts.h5 --reward-command 'python3 judge.py' --output "
             "judged.h5",
             "by a program, to another file"}};
  }

  int run() override {
    // Before the others, so that its name may be one of theirs.
    if (source_.function.ends_with(".so")) plugins_.push_back(source_.function);
    load_plugins(plugins_);
    run_reward(data_, source_, output_.empty() ? data_ : output_, std::cout);
    return 0;
  }

  std::string data_, output_;
  RewardSource source_;
  std::vector<std::string> plugins_;
};

}  // namespace

std::unique_ptr<Command> make_reward() { return std::make_unique<RewardCommand>(); }

}  // namespace archon::cli
