#pragma once

#include <cstdint>
#include <string>

namespace archon {

/// Learning rate over steps: linear warm-up from lr/warmup to lr, then constant, linear or cosine
/// decay that reaches lr·min_ratio at the last step.
struct LrSchedule {
  enum class Shape { constant, linear, cosine };
  Shape shape = Shape::constant;
  double lr = 1e-5;
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;
  double min_ratio = 0.0;

  /// `step` counts from 1.
  double at(int64_t step) const;
};

/// "constant", "linear", "cosine"; else InputError.
LrSchedule::Shape parse_lr_schedule(const std::string& text);

}  // namespace archon
