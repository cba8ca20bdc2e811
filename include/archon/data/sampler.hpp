#pragma once

#include <cstdint>
#include <vector>

namespace archon {

/// Which sequences each step trains on. A pure function of its arguments and the step, so a run
/// can go on from any step without replaying.
class Sampler {
 public:
  /// `batch_sequences` 0 means the whole file at every step. `unit` neighbouring sequences of the
  /// file stay together, in their order (the pairs of DPO); InputError where it does not divide
  /// both numbers.
  Sampler(int64_t sequences, int64_t batch_sequences, bool shuffle, uint64_t seed,
          int64_t unit = 1);

  int64_t steps_per_epoch() const;
  /// Sequence indices of step `step` (from 1). The last batch of an epoch may be smaller; each
  /// epoch draws a new order.
  std::vector<int64_t> batch(int64_t step) const;
  int64_t epoch(int64_t step) const { return (step - 1) / steps_per_epoch(); }

 private:
  std::vector<int64_t> order(int64_t epoch) const;
  int64_t unit_;
  int64_t units_;        // in the file
  int64_t batch_units_;  // in a step
  bool shuffle_;
  uint64_t seed_;
  mutable int64_t cached_epoch_ = -1;
  mutable std::vector<int64_t> cached_order_;
};

}  // namespace archon
