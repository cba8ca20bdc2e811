#include "sampling_kernels.hpp"

#include <algorithm>
#include <cmath>

#include "archon/base/simd.hpp"

// Compiled with -ffast-math, so that logf vectorises.
namespace archon::kernels {

ARCHON_SIMD_CLONES void gumbel_noise(float* noise, int64_t first, int64_t count, uint64_t key) {
  for (int64_t i = 0; i < count; ++i) {
    // -log u is drawn as -log(1 - v). The likely winners have a small one, which must not be
    // rounded to steps of 2^-24: for small v it is summed up.
    const uint64_t bits = mix(key ^ mix(static_cast<uint64_t>(first + i))) >> 33;
    const float v = (static_cast<float>(static_cast<int32_t>(bits)) + 0.5F) * 0x1p-31F;
    const float series = v * (1 + v * (0.5F + v * (1.0F / 3 + v * 0.25F)));
    const float below = 1 - v > 0x1p-25F ? 1 - v : 0x1p-25F;
    const float exponential = v < 0x1p-5F ? series : -std::log(below);
    noise[i] = -std::log(exponential);
  }
}

ARCHON_SIMD_CLONES void add_logits(float* noise, const float* logits, int64_t count, float scale) {
  for (int64_t i = 0; i < count; ++i) noise[i] += scale * logits[i];
}

ARCHON_SIMD_CLONES int64_t index_of_largest(const float* values, int64_t count) {
  constexpr int64_t kBlock = 1024;
  float largest = values[0];
  int64_t found = 0;  // the block that holds it
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, count);
    float max = values[begin];
    for (int64_t i = begin; i < end; ++i) max = values[i] > max ? values[i] : max;
    if (max <= largest) continue;
    largest = max;
    found = begin;
  }
  return std::find(values + found, values + std::min(found + kBlock, count) - 1, largest) - values;
}

}  // namespace archon::kernels
