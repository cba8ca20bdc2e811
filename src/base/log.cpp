#include "archon/base/log.hpp"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "archon/base/error.hpp"
#include "archon/base/open_line.hpp"

namespace archon::log {
namespace {

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warning:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

spdlog::logger& logger() {
  static const auto instance = [] {
    auto made = std::make_shared<spdlog::logger>(
        "archon", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern("archon: %^%l%$: %v");
    made->flush_on(spdlog::level::debug);
    return made;
  }();
  return *instance;
}

}  // namespace

Level parse_level(std::string_view text) {
  if (text == "debug") return Level::debug;
  if (text == "info") return Level::info;
  if (text == "warning") return Level::warning;
  if (text == "error") return Level::error;
  throw InputError(
      fmt::format("--log-level {} is not a level; choose debug, info, warning or error", text));
}

void configure(Level level, int rank, int world_size) {
  logger().set_level(to_spdlog(rank == 0 ? level : Level::error));
  if (world_size > 1) logger().set_pattern(fmt::format("archon[{}]: %^%l%$: %v", rank));
}

void write(Level level, std::string_view message) {
  if (logger().should_log(to_spdlog(level))) end_open_line();
  logger().log(to_spdlog(level), spdlog::string_view_t(message.data(), message.size()));
}

}  // namespace archon::log
