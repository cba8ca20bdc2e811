#pragma once

#include <cstdint>

#include "archon/base/simd.hpp"

#if ARCHON_X86_TARGETS
#include <immintrin.h>
#endif

/// Tiles of x86 processors with AMX (Intel's Architecture Instruction Set Extensions Programming
/// Reference, chapter 3): matrices of 16 rows of 64 bytes that are multiplied as such.
namespace archon::amx {

/// Whether this processor multiplies bfloat16 in tiles, and Linux lets this process use them.
bool multiplies_bfloat16();

#if ARCHON_X86_TARGETS
/// All tiles of the calling thread hold 16 rows of 64 bytes while one of these lives. Only where
/// multiplies_bfloat16().
class TileScope {
 public:
  TileScope();
  ~TileScope();
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

/// Two tiles of an operand at each step of the summed dim; all distances in bytes. On the left rows
/// of 32 bfloat16, the second tile's below the first's; on the right rows of 16 pairs, beside.
struct Tiles {
  const void* data;
  int64_t row, second, step;  ///< from a row, tile and step to the next
};

/// c [32, 16 · kColumns], rows so many bytes apart, = (or +=) a · b. Calls each_step() before each
/// step. Only while a TileScope lives.
template <int kColumns, class EachStep>
inline void multiply(float* c, int64_t row, const Tiles& a, const Tiles& b, int64_t steps, bool add,
                     const EachStep& each_step) {
  static_assert(kColumns == 1 || kColumns == 2);
  // The compiler does not know that tiles read and write memory.
  const auto order_memory = [] { __asm__ volatile("" ::: "memory"); };
  float* const below = c + 16 * row / static_cast<int64_t>(sizeof(float));
  order_memory();
  if (add) {
    _tile_loadd(0, c, row);
    _tile_loadd(1, below, row);
    if constexpr (kColumns == 2) _tile_loadd(2, c + 16, row);
    if constexpr (kColumns == 2) _tile_loadd(3, below + 16, row);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const char *left = static_cast<const char*>(a.data), *right = static_cast<const char*>(b.data);
  for (int64_t step = 0; step < steps; ++step, left += a.step, right += b.step) {
    each_step();
    _tile_loadd(4, left, a.row);
    _tile_loadd(5, left + a.second, a.row);
    _tile_loadd(6, right, b.row);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    if constexpr (kColumns == 2) {
      _tile_loadd(7, right + b.second, b.row);
      _tile_dpbf16ps(2, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, row);
  _tile_stored(1, below, row);
  if constexpr (kColumns == 2) _tile_stored(2, c + 16, row);
  if constexpr (kColumns == 2) _tile_stored(3, below + 16, row);
  order_memory();
}
#endif

}  // namespace archon::amx
