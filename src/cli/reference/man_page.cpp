#include "archon/base/version.hpp"
#include "command.hpp"
#include "reference.hpp"

namespace archon::cli {
namespace {

/// Text as troff takes it literally.
std::string literal(std::string_view text) {
  std::string out;
  bool line_begins = true;
  for (const char c : text) {
    // A line that begins with one of these would be a request.
    if (line_begins && (c == '.' || c == '\'')) out += "\\&";
    line_begins = c == '\n';
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
  }
  return out;
}

std::string paragraph(std::string_view text) { return ".PP\n" + literal(text) + '\n'; }

std::string term(std::string_view name, std::string_view value, std::string_view meaning) {
  return fmt::format(".TP\n\\fB{}\\fR{}\\fI{}\\fR\n{}\n", literal(name), value.empty() ? "" : " ",
                     literal(value), literal(meaning));
}

std::string title(std::string_view text) { return fmt::format(".PP\n\\fB{}\\fR\n", literal(text)); }

std::string example(const std::pair<std::string, std::string>& lines) {
  return fmt::format(".PP\n{}\n.RS\n.nf\n{}\n.fi\n.RE\n", literal(lines.second),
                     literal(lines.first));
}

std::string command_section(const CommandEntry& entry) {
  const auto command = entry.make();
  OptionSet options;
  command->declare(options);
  std::string out = fmt::format(".SS archon {}\n{}.\n", entry.name, literal(entry.purpose));
  if (!command->details().empty()) out += paragraph(command->details());
  if (!options.arguments().empty()) out += title("Arguments");
  for (const OptionSet::Argument& argument : options.arguments())
    out += term(argument.name, "", argument.help);
  for (const OptionSet::Group& group : options.groups()) {
    out += title(group.title);
    for (const OptionSet::Option& option : group.options)
      out += term("--" + option.name, option.value.is_switch ? "" : option.value.placeholder,
                  OptionSet::meaning(option));
  }
  out += title("Examples");
  for (const auto& lines : command->examples()) out += example(lines);
  return out;
}

}  // namespace

std::string man_page() {
  std::string out = fmt::format(
      ".TH ARCHON 1 \"\" \"Archon {}\" \"User Commands\"\n"
      ".SH NAME\narchon \\- {}\n"
      ".SH SYNOPSIS\n\\fBarchon\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n.br\n"
      "\\fBmpiexec \\-n\\fR \\fIRANKS\\fR \\fBarchon\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n"
      ".SH COMMANDS\n",
      version(), literal(kProgramPurpose));
  for (const CommandEntry& entry : commands()) out += command_section(entry);
  out += ".SH ENVIRONMENT\n";
  out += term("ARCHON_NAME_OF_OPTION", "",
              "Value of the option --name-of-option, where the command line does not give it.");
  out += term("ARCHON_PLUGIN_PATH", "", "Folders of plugins, with colons between them.");
  return out + fmt::format(".SH EXIT STATUS\n{}.\n", literal(kExitCodes));
}

}  // namespace archon::cli
