#include "command.hpp"

#include <algorithm>

#include "archon/base/error.hpp"
#include "archon/base/version.hpp"
#include "suggest.hpp"

namespace archon::cli {
namespace {

constexpr const char* kProgramExamples = R"(Examples:
  archon doctor                                    see what this machine offers
  mpiexec -n 4 archon train --model DIR --data FILE --output OUT --cp 2 --tp 2 --steps 100
                                                   train on four ranks
  archon diff run1.h5 run4.h5 --rtol 1e-5          compare two records
)";

}  // namespace

const std::vector<CommandEntry>& commands() {
  static const std::vector<CommandEntry> table = {
      {"train", "train a model on a token dataset", make_train},
      {"eval", "report the loss of a model over a token dataset, as JSON", make_eval},
      {"forward", "write what a model computes for every token to HDF5", make_forward},
      {"generate", "sample from a model: rollouts of a file of prompts, to HDF5", make_generate},
      {"reward", "add rewards to a file of rollouts, by a plugin or a program", make_reward},
      {"init", "make a new model with random weights from a config.json", make_init},
      {"export", "write the weights of a checkpoint as a HuggingFace folder", make_export},
      {"diff", "compare two HDF5 files or model folders, dataset by dataset", make_diff},
      {"inspect", "say what is in an HDF5 file, a safetensors file, a model folder or a checkpoint",
       make_inspect},
      {"plan", "predict memory and traffic of a training step, without a run", make_plan},
      {"doctor", "show what this machine offers, each part proven by a live check", make_doctor},
      {"plugins", "list the model architectures and rewards that are loaded", make_plugins},
  };
  return table;
}

const CommandEntry& find_command(const std::string& name) {
  std::vector<std::string> names;
  for (const CommandEntry& entry : commands()) {
    if (entry.name == name) return entry;
    names.push_back(entry.name);
  }
  throw InputError(fmt::format("unknown command {}{}", name, suggestion(name, names)));
}

std::string program_help() {
  std::string out = fmt::format(
      "Archon {}: {}.\n\n"
      "Usage: archon COMMAND [OPTIONS]\n"
      "       mpiexec -n RANKS archon COMMAND [OPTIONS]\n\nCommands:\n",
      version(), kProgramPurpose);
  for (const CommandEntry& entry : commands())
    out += fmt::format("  {:<10}{}\n", entry.name, entry.purpose);
  out +=
      "\narchon COMMAND --help tells about one command; archon --version prints the version.\n\n";
  return out + kProgramExamples + fmt::format("\nExit codes: {}.\n", kExitCodes);
}

std::string command_help(const CommandEntry& entry) {
  const auto command = entry.make();
  OptionSet options;
  command->declare(options);
  std::string out = fmt::format("archon {}: {}\n\nUsage: archon {} {}{}[OPTIONS]\n", entry.name,
                                entry.purpose, entry.name, options.required_usage(),
                                options.required_usage().empty() ? "" : " ");
  if (!command->details().empty()) out += fmt::format("\n{}\n", command->details());
  out += options.help();
  out += "\nExamples:\n";
  for (const auto& [line, meaning] : command->examples())
    out += fmt::format("  # {}\n  {}\n", meaning, line);
  return out;
}

}  // namespace archon::cli
