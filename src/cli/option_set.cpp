#include "option_set.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>

#include "archon/base/error.hpp"

namespace archon::cli {
namespace {

constexpr const char* kSettingsFile = "config";
constexpr std::size_t kHelpColumn = 32;
constexpr std::size_t kHelpWidth = 96;

// "  left", then `text` in a column of its own, wrapped at blanks.
std::string help_entry(const std::string& left, const std::string& text) {
  std::string out = "  " + left;
  if (out.size() + 2 > kHelpColumn) out += '\n';
  std::size_t column = out.back() == '\n' ? 0 : out.size();
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (column > kHelpColumn && column + 1 + word.size() > kHelpWidth) {
      out += '\n';
      column = 0;
    }
    const std::size_t blanks = column < kHelpColumn ? kHelpColumn - column : 1;
    out += std::string(blanks, ' ') + word;
    column += blanks + word.size();
  }
  return out + '\n';
}

std::string with_placeholder(const std::string& name, const Value& value) {
  return value.is_switch ? "--" + name : fmt::format("--{} {}", name, value.placeholder);
}

}  // namespace

void OptionSet::group(std::string title) { groups_.push_back({std::move(title), {}}); }

void OptionSet::add(std::string name, Value value, std::string help) {
  groups_.back().options.push_back({std::move(name), std::move(value), std::move(help)});
}

void OptionSet::require(std::string name, Value value, std::string help) {
  add(std::move(name), std::move(value), std::move(help));
  groups_.back().options.back().required = true;
}

void OptionSet::argument(std::string name, std::string& target, std::string help) {
  arguments_.push_back({std::move(name), &target, std::move(help)});
}

void OptionSet::add_settings_file() {
  has_settings_file_ = true;
  // parse() reads the file itself: nothing is to be set.
  add(kSettingsFile, {.placeholder = "FILE", .initial = "", .set = [](const std::string&) {}},
      "settings file with lines \"key = value\", keys named like the options; # begins a comment. "
      "The command line goes before ARCHON_* variables, these before the file");
}

std::vector<OptionName> OptionSet::names() const {
  std::vector<OptionName> names;
  for (const Group& group : groups_)
    for (const Option& option : group.options)
      names.push_back({option.name, option.value.repeatable, option.value.is_switch});
  return names;
}

void OptionSet::parse(const std::vector<std::string>& arguments) const {
  std::vector<OptionName> known = names();
  CommandLine line = read_command_line(arguments, known);
  take_arguments(line.arguments);

  // `config` is no setting itself; where it means another file, ARCHON_CONFIG is not for it.
  Settings settings = std::move(line.settings);
  if (has_settings_file_) settings.merge(read_environment({{kSettingsFile}}));
  std::erase_if(known, [](const OptionName& option) { return option.name == kSettingsFile; });
  settings.merge(read_environment(known));
  if (const auto file = settings.find(kSettingsFile); has_settings_file_ && file != settings.end())
    settings.merge(read_settings_file(file->second.front().text, known));

  std::vector<std::string> missing;
  for (const Group& group : groups_)
    for (const Option& option : group.options) {
      if (const auto given = settings.find(option.name); given != settings.end())
        take_option(option, given->second);
      else if (option.required)
        missing.push_back(with_placeholder(option.name, option.value));
    }
  ARCHON_VALIDATE(missing.empty(), "missing {}", fmt::join(missing, " and "));
}

void OptionSet::take_arguments(const std::vector<std::string>& given) const {
  ARCHON_VALIDATE(given.size() <= arguments_.size(), "unexpected argument \"{}\"",
                  given[arguments_.size()]);
  for (std::size_t i = 0; i < given.size(); ++i) *arguments_[i].target = given[i];
  ARCHON_VALIDATE(given.size() == arguments_.size(), "missing {}", arguments_[given.size()].name);
}

void OptionSet::take_option(const Option& option, const std::vector<Setting>& settings) {
  for (const Setting& setting : settings) try {
      option.value.set(setting.text);
    } catch (const InputError& error) {
      const std::string origin = setting.origin.empty() ? "" : " (" + setting.origin + ")";
      const std::string shown = setting.text.empty() ? "\"\"" : setting.text;
      throw InputError(fmt::format("--{} {}{} {}", option.name, shown, origin, error.what()));
    }
}

std::string OptionSet::required_usage() const {
  std::vector<std::string> parts;
  for (const Argument& argument : arguments_) parts.push_back(argument.name);
  for (const Group& group : groups_)
    for (const Option& option : group.options)
      if (option.required) parts.push_back(with_placeholder(option.name, option.value));
  return fmt::format("{}", fmt::join(parts, " "));
}

std::string OptionSet::meaning(const Option& option) {
  std::string text = option.help;
  if (option.required) text += " (required)";
  if (option.value.repeatable) text += " (repeatable)";
  if (!option.value.initial.empty()) text += " [" + option.value.initial + "]";
  return text;
}

std::string OptionSet::help() const {
  std::string out;
  if (!arguments_.empty()) out += "\nArguments:\n";
  for (const Argument& argument : arguments_) out += help_entry(argument.name, argument.help);
  for (const Group& group : groups_) {
    out += "\n" + group.title + ":\n";
    for (const Option& option : group.options)
      out += help_entry(with_placeholder(option.name, option.value), meaning(option));
  }
  return out;
}

}  // namespace archon::cli
