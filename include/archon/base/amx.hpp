#pragma once

/// Tiles of x86 processors with AMX (Intel's Architecture Instruction Set Extensions Programming
/// Reference, chapter 3): matrices of 16 rows of 64 bytes that are multiplied as such.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define ARCHON_AMX 1
#else
#define ARCHON_AMX 0
#endif

namespace archon::amx {

/// Whether this processor multiplies bfloat16 in tiles, and Linux lets this process use them.
bool multiplies_bfloat16();

/// All tiles of the calling thread hold 16 rows of 64 bytes while one of these lives. Only where
/// multiplies_bfloat16().
class TileScope {
 public:
  TileScope();
  ~TileScope();
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

/// The compiler does not know that tiles read and write memory.
inline void order_memory() { __asm__ volatile("" ::: "memory"); }

}  // namespace archon::amx
