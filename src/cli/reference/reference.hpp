#pragma once

#include <string>

/// The help in other forms, made from the option tables themselves while Archon is built.
namespace archon::cli {

/// Completion for bash: commands, their options, and values that are one of several or a file.
std::string bash_completion();
/// archon(1), in the macros of man(7).
std::string man_page();

}  // namespace archon::cli
