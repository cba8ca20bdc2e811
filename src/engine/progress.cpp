#include "archon/engine/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace archon {
namespace {

constexpr int kBarWidth = 28;
constexpr auto kLineInterval = std::chrono::seconds(10);

}  // namespace

std::string format_duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole >= 3600)
    return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{:02}:{:02}", whole / 60, whole % 60);
}

Progress::Progress(bool enabled, int64_t first_step, int64_t last_step)
    : enabled_(enabled),
      terminal_(isatty(STDERR_FILENO) == 1),
      first_step_(first_step),
      last_step_(last_step),
      start_(Clock::now()) {}

Progress::~Progress() { interrupt(); }

void Progress::interrupt() {
  if (!line_open_) return;
  std::fputc('\n', stderr);
  line_open_ = false;
}

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
      100 * gemm_peak_share,
      open_ended ? "" : fmt::format("  {} left", format_duration(left)));
  if (terminal_ && open_ended) {
    fmt::print(stderr, "\r\033[K{}", status);
    line_open_ = true;
  } else if (terminal_) {
    const auto filled = static_cast<int>(kBarWidth * step / last_step_);
    fmt::print(stderr, "\r\033[K[{:#<{}}{:-<{}}] {}", "", filled, "", kBarWidth - filled, status);
    line_open_ = true;
  } else {
    fmt::print(stderr, "{}\n", status);
  }
  std::fflush(stderr);
}

}  // namespace archon
