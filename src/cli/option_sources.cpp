#include "option_sources.hpp"

#include <algorithm>
#include <boost/program_options/errors.hpp>
#include <boost/program_options/options_description.hpp>
#include <boost/program_options/parsers.hpp>
#include <boost/program_options/value_semantic.hpp>
#include <cctype>
#include <cstdlib>
#include <sstream>

#include "archon/base/error.hpp"
#include "archon/io/files.hpp"
#include "suggest.hpp"

namespace archon::cli {
namespace {

namespace po = boost::program_options;

std::vector<std::string> plain_names(const std::vector<OptionName>& options) {
  std::vector<std::string> names;
  for (const OptionName& option : options) names.push_back(option.name);
  return names;
}

const OptionName* find_option(const std::vector<OptionName>& options, const std::string& name) {
  const auto found = std::find_if(options.begin(), options.end(),
                                  [&](const OptionName& option) { return option.name == name; });
  return found == options.end() ? nullptr : &*found;
}

[[noreturn]] void refuse_unknown(std::string token, const std::vector<OptionName>& options) {
  token = token.substr(0, token.find('='));
  const std::string word = token.substr(std::min(token.find_first_not_of('-'), token.size()));
  throw_input_error(
      fmt::format("unknown option {}{}", token, suggestion(word, plain_names(options), "--")));
}

po::options_description describe(const std::vector<OptionName>& options) {
  po::options_description description;
  for (const OptionName& option : options) {
    auto* const value = po::value<std::string>();
    if (option.is_switch) value->zero_tokens();
    description.add_options()(option.name.c_str(), value, "");
  }
  return description;
}

po::parsed_options tokenize(const std::vector<std::string>& arguments,
                            const po::options_description& description) {
  namespace style = po::command_line_style;
  try {
    return po::command_line_parser(arguments)
        .options(description)
        .style(style::allow_long | style::long_allow_adjacent | style::long_allow_next)
        .allow_unregistered()
        .run();
  } catch (const po::invalid_command_line_syntax& error) {
    ARCHON_VALIDATE(error.kind() != po::invalid_syntax::extra_parameter, "{} takes no value",
                    error.get_option_name());
    throw InputError(fmt::format("{} needs a value", error.get_option_name()));
  }
}

bool looks_like_option(const std::string& token) { return token.size() > 1 && token[0] == '-'; }

std::string trimmed(const std::string& text) {
  constexpr const char* kBlank = " \t\r";
  const auto begin = text.find_first_not_of(kBlank);
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

// A # begins a comment at the start of a line or after a blank: values may hold one.
std::string without_comment(const std::string& line) {
  for (std::size_t at = line.find('#'); at != std::string::npos; at = line.find('#', at + 1))
    if (at == 0 || line[at - 1] == ' ' || line[at - 1] == '\t') return line.substr(0, at);
  return line;
}

std::string environment_name(const std::string& option) {
  std::string name = "ARCHON_";
  for (const char c : option)
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

}  // namespace

CommandLine read_command_line(const std::vector<std::string>& arguments,
                              const std::vector<OptionName>& options) {
  const auto description = describe(options);
  CommandLine line;
  for (const po::option& token : tokenize(arguments, description).options) {
    const std::string& original = token.original_tokens.front();
    if (token.unregistered) refuse_unknown(original, options);
    if (token.string_key.empty()) {
      if (looks_like_option(original)) refuse_unknown(original, options);
      line.arguments.push_back(original);
      continue;
    }
    const std::string given = token.value.empty() ? "on" : token.value.front();
    ARCHON_VALIDATE(given.rfind("--", 0) != 0, "--{} needs a value, but {} follows it",
                    token.string_key, given);
    auto& settings = line.settings[token.string_key];
    ARCHON_VALIDATE(settings.empty() || find_option(options, token.string_key)->repeatable,
                    "--{} is given twice, as {} and as {}; give it once", token.string_key,
                    settings.front().text, given);
    settings.push_back({given, ""});
  }
  return line;
}

Settings read_environment(const std::vector<OptionName>& options) {
  Settings settings;
  for (const OptionName& option : options) {
    const std::string variable = environment_name(option.name);
    const char* const value = std::getenv(variable.c_str());
    if (value == nullptr || *value == '\0') continue;
    settings[option.name].push_back({value, "from " + variable});
  }
  return settings;
}

Settings read_settings_file(const std::string& path, const std::vector<OptionName>& options) {
  Settings settings;
  std::istringstream lines(read_text_file(path));
  std::string raw;
  for (int number = 1; std::getline(lines, raw); ++number) {
    const std::string line = trimmed(without_comment(raw));
    if (line.empty()) continue;
    const auto equals = line.find('=');
    ARCHON_VALIDATE(equals != std::string::npos && equals > 0,
                    "{}:{}: \"{}\" is not a setting; write key = value", path, number, line);
    const std::string key = trimmed(line.substr(0, equals));
    const OptionName* const option = find_option(options, key);
    ARCHON_VALIDATE(option != nullptr, "{}:{}: unknown key {}{}", path, number, key,
                    suggestion(key, plain_names(options)));
    auto& values = settings[key];
    ARCHON_VALIDATE(values.empty() || option->repeatable,
                    "{}:{}: {} is set a second time (first {}); keep one of them", path, number,
                    key, values.front().origin);
    values.push_back({trimmed(line.substr(equals + 1)), fmt::format("from {}:{}", path, number)});
  }
  return settings;
}

}  // namespace archon::cli
