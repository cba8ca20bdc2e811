#include "attention_kernels.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "archon/base/amx.hpp"

namespace archon::kernels {
namespace {

// Each variant: its target, the floats of its vectors, whether it multiplies pairs of bfloat16, and
// whether in tiles. (The compiler's own macros do not follow the pragma.)
#define ARCHON_VECTOR_FLOATS 4
#define ARCHON_BFLOAT16_PAIRS 0
#define ARCHON_BFLOAT16_TILES 0
namespace portable {
#include "attention_tiles.inc"
#include "attention_cached.inc"
}

#if ARCHON_X86_TARGETS
#undef ARCHON_VECTOR_FLOATS
#define ARCHON_VECTOR_FLOATS 8
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
namespace avx2 {
#include "attention_tiles.inc"
#include "attention_cached.inc"
}
#pragma GCC pop_options

#undef ARCHON_VECTOR_FLOATS
#define ARCHON_VECTOR_FLOATS 16
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
namespace avx512 {
#include "attention_tiles.inc"
#include "attention_cached.inc"
}
#pragma GCC pop_options

#undef ARCHON_BFLOAT16_PAIRS
#define ARCHON_BFLOAT16_PAIRS 1
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16")
namespace avx512_bf16 {
#include "attention_tiles.inc"
#include "attention_cached.inc"
}
#pragma GCC pop_options

#undef ARCHON_BFLOAT16_TILES
#define ARCHON_BFLOAT16_TILES 1
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16,amx-tile,amx-bf16")
namespace amx_bf16 {
#include "attention_tiles.inc"
#include "attention_cached.inc"
}
#pragma GCC pop_options
#endif

}  // namespace

int64_t attention_scratch(int64_t head_dim) {
  // Seven operands or sums of a block of rows, five tiles of scores: the backward pass.
  return kAttentionBlock * (7 * attention_padded_dim(head_dim) + 5 * kAttentionBlock);
}

int64_t cached_attention_scratch(int64_t head_dim, int64_t length) {
  // Of four heads: queries, sums, scores.
  return 4 * (2 * attention_padded_dim(head_dim) + kAttentionBlock * attention_blocks(length));
}

#define ARCHON_VARIANT(name)                                                           \
  AttentionKernels<T> {                                                                \
    #name, name::forward<T>, name::backward<T>, name::cache_head_floats<T>, name::append<T>, \
        name::attend<T>                                                                \
  }

template <class T>
std::vector<AttentionKernels<T>> attention_variants() {
  std::vector<AttentionKernels<T>> variants;
#if ARCHON_X86_TARGETS
  const bool v4 = __builtin_cpu_supports("x86-64-v4");
  if (v4 && __builtin_cpu_supports("avx512bf16")) {
    if constexpr (std::is_same_v<T, c10::BFloat16>)
      if (amx::multiplies_bfloat16()) variants.push_back(ARCHON_VARIANT(amx_bf16));
    variants.push_back(ARCHON_VARIANT(avx512_bf16));
  }
  if (v4) variants.push_back(ARCHON_VARIANT(avx512));
  if (__builtin_cpu_supports("x86-64-v3")) variants.push_back(ARCHON_VARIANT(avx2));
#endif
  variants.push_back(ARCHON_VARIANT(portable));
  return variants;
}

template <class T>
const AttentionKernels<T>& attention_kernels() {
  static const AttentionKernels<T> fastest = attention_variants<T>().front();
  return fastest;
}

#define ARCHON_INSTANTIATE(T)                                     \
  template std::vector<AttentionKernels<T>> attention_variants(); \
  template const AttentionKernels<T>& attention_kernels();
ARCHON_INSTANTIATE(float)
ARCHON_INSTANTIATE(c10::BFloat16)

}  // namespace archon::kernels
