#include "archon/data/sampler.hpp"

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>

#include "archon/base/error.hpp"

namespace archon {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): neighbouring seeds and epochs come out unrelated.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// Uniform in [0, bound), without modulo bias. The standard fixes what mt19937_64 draws, but not
// what its distributions and std::shuffle make of it.
uint64_t draw_below(uint64_t bound, std::mt19937_64& generator) {
  const uint64_t limit = generator.max() - generator.max() % bound;
  uint64_t value = generator();
  while (value >= limit) value = generator();
  return value % bound;
}

}  // namespace

Sampler::Sampler(int64_t sequences, int64_t batch_sequences, bool shuffle, uint64_t seed,
                 int64_t unit)
    : unit_(unit),
      units_(sequences / unit),
      batch_units_(batch_sequences == 0 ? units_ : batch_sequences / unit),
      shuffle_(shuffle),
      seed_(seed) {
  ARCHON_VALIDATE(sequences >= 1, "{} sequences to draw from; a batch needs at least one",
                  sequences);
  ARCHON_VALIDATE(batch_sequences >= 0,
                  "{} sequences per batch; give a positive number, or 0 for the whole file",
                  batch_sequences);
  ARCHON_VALIDATE(sequences % unit == 0 && batch_sequences % unit == 0,
                  "{} sequences, {} per batch, are to be taken {} at a time; give multiples of it",
                  sequences, batch_sequences, unit);
}

int64_t Sampler::steps_per_epoch() const {
  return units_ / batch_units_ + (units_ % batch_units_ != 0 ? 1 : 0);
}

std::vector<int64_t> Sampler::batch(int64_t step) const {
  ARCHON_ENSURE(step >= 1, "step {}: steps count from 1", step);
  if (cached_epoch_ != epoch(step)) {
    cached_order_ = order(epoch(step));
    cached_epoch_ = epoch(step);
  }
  const int64_t begin = (step - 1) % steps_per_epoch() * batch_units_;
  const int64_t end = begin + std::min(batch_units_, units_ - begin);
  std::vector<int64_t> sequences;
  for (int64_t i = begin; i < end; ++i)
    for (int64_t member = 0; member < unit_; ++member)
      sequences.push_back(cached_order_[i] * unit_ + member);
  return sequences;
}

std::vector<int64_t> Sampler::order(int64_t epoch) const {
  std::vector<int64_t> order(units_);
  std::iota(order.begin(), order.end(), 0);
  if (!shuffle_) return order;
  std::mt19937_64 generator(mix(mix(seed_) + static_cast<uint64_t>(epoch)));
  for (int64_t last = units_ - 1; last > 0; --last)  // Fisher-Yates
    std::swap(order[last], order[draw_below(static_cast<uint64_t>(last) + 1, generator)]);
  return order;
}

}  // namespace archon
