#pragma once

#include <cstdint>

/// Gumbel noise from a counter: a number is a function of its key and its token alone.
namespace archon::kernels {

/// A well-mixed function of x: the output of SplitMix64 at state x (Steele et al. 2014,
/// doi:10.1145/2660193.2660195).
inline uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

/// noise[i] = -log(-log u) of token first + i, for u uniform in (0, 1).
void gumbel_noise(float* noise, int64_t first, int64_t count, uint64_t key);

/// noise[i] += scale · logits[i]
void add_logits(float* noise, const float* logits, int64_t count, float scale);

/// The index of the largest; the lowest of equals.
int64_t index_of_largest(const float* values, int64_t count);

}  // namespace archon::kernels
