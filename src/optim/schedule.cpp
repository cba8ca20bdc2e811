#include "archon/optim/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "archon/base/error.hpp"

namespace archon {

double LrSchedule::at(int64_t step) const {
  if (step <= warmup_steps)
    return lr * static_cast<double>(step) / static_cast<double>(warmup_steps);
  if (shape == Shape::constant) return lr;
  const int64_t decay_steps = std::max<int64_t>(1, total_steps - warmup_steps);
  const double progress =
      std::min(1.0, static_cast<double>(step - warmup_steps) / static_cast<double>(decay_steps));
  const double left =
      shape == Shape::linear ? 1.0 - progress : 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  return lr * (min_ratio + (1.0 - min_ratio) * left);
}

LrSchedule::Shape parse_lr_schedule(const std::string& text) {
  if (text == "constant") return LrSchedule::Shape::constant;
  if (text == "linear") return LrSchedule::Shape::linear;
  if (text == "cosine") return LrSchedule::Shape::cosine;
  throw_input_error(
      fmt::format("\"{}\" is no learning-rate schedule; choose constant, linear or cosine", text));
}

}  // namespace archon
