#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "option_sources.hpp"
#include "values.hpp"

namespace archon::cli {

/// The options and arguments of one command: read from the command line, from ARCHON_*
/// variables and from a settings file, in this precedence, and described for --help.
class OptionSet {
 public:
  struct Option {
    std::string name;
    Value value;
    std::string help;
    bool required = false;
  };
  struct Group {
    std::string title;
    std::vector<Option> options;
  };
  struct Argument {
    std::string name;
    std::string* target;
    std::string help;
  };

  /// What is added next stands under this title in the help.
  void group(std::string title);
  void add(std::string name, Value value, std::string help);
  void require(std::string name, Value value, std::string help);
  /// A required positional argument; in order of the calls.
  void argument(std::string name, std::string& target, std::string help);
  /// Adds --config FILE, the settings file.
  void add_settings_file();

  /// Sets every bound variable. InputError that names the option, its value and its origin: an
  /// unknown or repeated option, a malformed value, a missing one, a bad settings file.
  void parse(const std::vector<std::string>& arguments) const;

  /// "--model DIR --data FILE A B": what cannot be left out.
  std::string required_usage() const;
  /// All groups, with placeholders and defaults.
  std::string help() const;

  /// For other forms of the help.
  const std::vector<Argument>& arguments() const { return arguments_; }
  const std::vector<Group>& groups() const { return groups_; }
  /// What the help says of an option: meaning, "(required)", "(repeatable)", "[default]".
  static std::string meaning(const Option& option);

 private:
  std::vector<OptionName> names() const;
  void take_arguments(const std::vector<std::string>& given) const;
  static void take_option(const Option& option, const std::vector<Setting>& settings);

  std::vector<Group> groups_;
  std::vector<Argument> arguments_;
  bool has_settings_file_ = false;
};

}  // namespace archon::cli
