#pragma once

#include <map>
#include <string>
#include <vector>

namespace archon::cli {

/// What a source of settings has to know of an option.
struct OptionName {
  std::string name;
  bool repeatable = false;
  bool is_switch = false;
};

/// One value given for an option, and where: "" (command line), "from ARCHON_LR", ...
struct Setting {
  std::string text;
  std::string origin;
};
using Settings = std::map<std::string, std::vector<Setting>>;

struct CommandLine {
  Settings settings;
  std::vector<std::string> arguments;  ///< what is no option, in order
};

/// --name value and --name=value. InputError for an unknown option (with the nearest one), one
/// without its value, and one given twice that is not repeatable.
CommandLine read_command_line(const std::vector<std::string>& arguments,
                              const std::vector<OptionName>& options);

/// ARCHON_MICRO_BATCH_TOKENS for micro-batch-tokens. Empty variables and those that name no
/// option are passed over.
Settings read_environment(const std::vector<OptionName>& options);

/// Lines "key = value"; # begins a comment. InputError with file and line for anything else, an
/// unknown key, and a key that stands there twice.
Settings read_settings_file(const std::string& path, const std::vector<OptionName>& options);

}  // namespace archon::cli
