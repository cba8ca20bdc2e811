#include <algorithm>
#include <cctype>

#include "archon/base/version.hpp"
#include "command.hpp"
#include "reference.hpp"

namespace archon::cli {
namespace {

constexpr const char* kBegin = R"(
_archon() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
  # To bash the "=" of --name=value is a word.
  if [[ $word == "=" ]]; then
    word=
  elif [[ $before == "=" ]]; then
    before=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  local words='' files=''
  case ${COMP_WORDS[1]} in
)";

constexpr const char* kEnd = R"(  esac
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
  if [[ -n $files ]]; then
    compopt -o filenames 2>/dev/null
    mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$word")
  fi
}
complete -F _archon archon
)";

/// What the placeholder of an option says may stand there.
struct Choices {
  std::string words;  ///< with blanks between them
  bool files = false;
};

bool is_word(const std::string& alternative) {
  return std::none_of(alternative.begin(), alternative.end(),
                      [](unsigned char c) { return std::isupper(c) != 0; });
}

Choices choices(const std::string& placeholder) {
  Choices found;
  for (std::size_t begin = 0; begin <= placeholder.size();) {
    const std::size_t end = std::min(placeholder.find('|', begin), placeholder.size());
    const std::string alternative = placeholder.substr(begin, end - begin);
    begin = end + 1;
    if (alternative == "FILE" || alternative == "DIR") {
      found.files = true;
    } else if (is_word(alternative)) {
      found.words += (found.words.empty() ? "" : " ") + alternative;
    }
  }
  return found;
}

std::string assignments(const Choices& choices) {
  return fmt::format("words='{}' files={}", choices.words, choices.files ? "yes" : "");
}

/// What follows each option, and where no option waits for its value.
std::string command_cases(const OptionSet& options) {
  std::string names, values;
  for (const OptionSet::Group& group : options.groups())
    for (const OptionSet::Option& option : group.options) {
      names += fmt::format("--{} ", option.name);
      if (!option.value.is_switch)
        values += fmt::format("        --{}) {} ;;\n", option.name,
                              assignments(choices(option.value.placeholder)));
    }
  const Choices otherwise = {names + "--help", !options.arguments().empty()};
  return values + fmt::format("        *) {} ;;\n", assignments(otherwise));
}

}  // namespace

std::string bash_completion() {
  std::string out = fmt::format("# Completion of archon {} for bash.\n{}", version(), kBegin);
  std::string names;
  for (const CommandEntry& entry : commands()) {
    OptionSet options;
    const auto command = entry.make();
    command->declare(options);
    names += entry.name + ' ';
    out += fmt::format("    {})\n      case $before in\n{}      esac\n      ;;\n", entry.name,
                       command_cases(options));
  }
  out += fmt::format("    *) words='{}--help --version' ;;\n", names);
  return out + kEnd;
}

}  // namespace archon::cli
