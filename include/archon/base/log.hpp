#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace archon::log {

enum class Level { debug, info, warning, error };

/// "debug", "info", "warning" or "error"; anything else is an InputError.
Level parse_level(std::string_view text);

/// Everything goes to stderr. Rank 0 prints from `level` on; other ranks only errors, with their
/// rank in front.
void configure(Level level, int rank, int world_size);

void write(Level level, std::string_view message);

template <class... Args>
void debug(fmt::format_string<Args...> text, Args&&... args) {
  write(Level::debug, fmt::format(text, std::forward<Args>(args)...));
}
template <class... Args>
void info(fmt::format_string<Args...> text, Args&&... args) {
  write(Level::info, fmt::format(text, std::forward<Args>(args)...));
}
template <class... Args>
void warning(fmt::format_string<Args...> text, Args&&... args) {
  write(Level::warning, fmt::format(text, std::forward<Args>(args)...));
}
template <class... Args>
void error(fmt::format_string<Args...> text, Args&&... args) {
  write(Level::error, fmt::format(text, std::forward<Args>(args)...));
}

}  // namespace archon::log
