#pragma once

#include <array>
#include <chrono>
#include <vector>

#include "archon/base/activity.hpp"
#include "archon/mesh/mesh.hpp"

namespace archon {

/// What a step cost the ranks of a mesh.
struct StepCost {
  ActivitySeconds mean{}, largest{};  ///< over the ranks
  std::array<AxisTraffic, 6> sent{};  ///< each number is the largest rank's
  int64_t peak_memory_bytes = 0;      ///< of the largest rank, since its start
  int64_t wish = 0;                   ///< the largest of what the ranks gave to `gather`
};

/// The most memory that this rank has taken so far: of tensors on its GPU, or, without one, of the
/// process.
int64_t peak_memory_of(const Mesh& mesh);

/// Measures what happens on this rank between `begin` and `end`: seconds by activity, and traffic.
/// Time for input/output counts from the `end` before, so that what is written after a step is told
/// with the next one.
class StepMeter {
 public:
  explicit StepMeter(const Mesh& mesh);

  void begin();
  void end();
  /// Wall time between the two, on this rank.
  double seconds() const { return seconds_; }
  /// One all_gather of some hundred bytes a rank; outside of every step's traffic. Collective.
  /// `wish` rides along, for what the ranks have to agree on at each step.
  StepCost gather(int64_t wish = 0) const;

 private:
  using Clock = std::chrono::steady_clock;
  std::vector<double> figures() const;

  const Mesh& mesh_;
  Clock::time_point start_;
  double seconds_ = 0;
  ActivitySeconds begin_, end_, spent_{};
  std::array<AxisTraffic, 6> before_, sent_;
};

}  // namespace archon
