#include "archon/base/amx.hpp"

#if ARCHON_X86_TARGETS
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace archon::amx {

#if ARCHON_X86_TARGETS
namespace {

/// Tiles' registers are large, so Linux has to be asked for them, once for all threads (its
/// Documentation/arch/x86/xstate.rst).
bool ask_for_tiles() {
  constexpr unsigned kTileBfloat16 = 1U << 22, kTile = 1U << 24;  // of CPUID leaf 7
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  if ((d & kTileBfloat16) == 0 || (d & kTile) == 0) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

/// Constant: GCC's _tile_loadconfig is said to read eight bytes only, so that it leaves out what is
/// written to the others.
alignas(64) constexpr struct {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
} kConfig;

#pragma GCC push_options
#pragma GCC target("amx-tile")
void configure() { _tile_loadconfig(&kConfig); }
void release() { _tile_release(); }
#pragma GCC pop_options

}  // namespace

bool multiplies_bfloat16() {
  static const bool result = __builtin_cpu_supports("x86-64-v4") &&
                             __builtin_cpu_supports("avx512bf16") && ask_for_tiles();
  return result;
}

TileScope::TileScope() { configure(); }
TileScope::~TileScope() { release(); }
#else
bool multiplies_bfloat16() { return false; }
#endif

}  // namespace archon::amx
