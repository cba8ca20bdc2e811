#include "archon/engine/progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "archon/base/open_line.hpp"

namespace archon {
namespace {

constexpr int64_t kBarWidth = 28;
constexpr int kUsualColumns = 80;
constexpr auto kLineInterval = std::chrono::seconds(10);

// Whether a line on stderr can be drawn again.
bool can_redraw() {
  const char* const kind = std::getenv("TERM");
  const std::string terminal = kind == nullptr ? "" : kind;
  return isatty(STDERR_FILENO) == 1 && !terminal.empty() && terminal != "dumb";
}

// Characters that fit on a line: with one in the last column some terminals begin another.
std::size_t line_room() {
  winsize size = {};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return static_cast<std::size_t>(known ? size.ws_col : kUsualColumns) - 1;
}

// "[###-----] ", no wider than `room`; nothing where that is too little to see it by.
std::string draw_bar(int64_t step, int64_t last_step, int64_t room) {
  constexpr int64_t kFrame = 3, kLeast = 5;
  const int64_t width = std::min(kBarWidth, room - kFrame);
  if (width < kLeast) return "";
  const int64_t filled = width * step / last_step;
  return fmt::format("[{:#<{}}{:-<{}}] ", "", filled, "", width - filled);
}

}  // namespace

std::string format_duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole >= 3600)
    return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{:02}:{:02}", whole / 60, whole % 60);
}

Progress::Progress(bool enabled, int64_t first_step, int64_t last_step)
    : enabled_(enabled),
      terminal_(can_redraw()),
      first_step_(first_step),
      last_step_(last_step),
      start_(Clock::now()) {}

Progress::~Progress() { end_open_line(); }

void Progress::update(int64_t step, double loss, double tokens_per_second, double gemm_peak_share) {
  if (!enabled_) return;
  const auto now = Clock::now();
  const bool due = step == first_step_ || step == last_step_ || now - last_line_ >= kLineInterval;
  if (!terminal_ && !due) return;
  last_line_ = now;

  const double done = static_cast<double>(step - first_step_ + 1);
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double left = elapsed / done * static_cast<double>(last_step_ - step);
  const bool open_ended = last_step_ == 0;
  const std::string status = fmt::format(
      "step {}{}  loss {:.4f}  {:.0f} tokens/s  {:.0f} % of peak{}", step,
      open_ended ? "" : fmt::format("/{}", last_step_), loss, tokens_per_second,
      100 * gemm_peak_share, open_ended ? "" : fmt::format("  {} left", format_duration(left)));
  if (terminal_) {
    const std::size_t room = line_room();
    const int64_t beside = static_cast<int64_t>(room) - static_cast<int64_t>(status.size());
    const std::string bar = open_ended ? "" : draw_bar(step, last_step_, beside);
    fmt::print(stderr, "\r\033[K{}", (bar + status).substr(0, room));
    leave_line_open();
  } else {
    fmt::print(stderr, "{}\n", status);
  }
  std::fflush(stderr);
}

}  // namespace archon
