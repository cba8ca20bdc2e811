#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace archon {

/// Progress on stderr: a bar that is redrawn on a terminal, as wide as there is room, and that
/// messages of the log leave; a plain line now and then elsewhere.
class Progress {
 public:
  /// Steps first_step..last_step are to come; last_step 0 = nobody knows how many. Silent unless
  /// `enabled` (world rank 0).
  Progress(bool enabled, int64_t first_step, int64_t last_step);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `gemm_peak_share` is the step's FLOP per second over those of matrix products.
  void update(int64_t step, double loss, double tokens_per_second, double gemm_peak_share);

 private:
  using Clock = std::chrono::steady_clock;
  bool enabled_;
  bool terminal_;
  int64_t first_step_, last_step_;
  Clock::time_point start_, last_line_;
};

/// "1:02:03" or "02:03".
std::string format_duration(double seconds);

}  // namespace archon
