#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>

#include <vector>

#include "archon/parallel/ulysses_heads.hpp"

namespace archon::test {

/// All (heads, kv_heads) up to 12 that the head rules allow for cp ranks.
inline std::vector<UlyssesHeads> layouts(int cp) {
  std::vector<UlyssesHeads> all;
  for (int64_t heads = 1; heads <= 12; ++heads)
    for (int64_t kv = 1; kv <= heads; ++kv) {
      if (heads % kv != 0 || heads % cp != 0) continue;
      const bool repeats = cp % kv == 0 && (heads / kv) % (cp / kv) == 0;
      if (kv % cp == 0 || repeats) all.push_back({heads, kv, cp});
    }
  return all;
}

/// The kv head that query head `head` of the whole layer uses.
inline int64_t kv_of(const UlyssesHeads& layout, int64_t head) {
  return head / (layout.heads / layout.kv_heads);
}

/// What rank `rank` must hold inside attention, out of the whole stream [T, heads + 2 kv, d]: its
/// query heads, and the key/value heads that those use.
inline at::Tensor heads_of_rank(const at::Tensor& whole, const UlyssesHeads& layout, int rank) {
  const int64_t first = rank * layout.heads / layout.cp,
                last = (rank + 1) * layout.heads / layout.cp - 1;
  const int64_t first_kv = kv_of(layout, first), kv = kv_of(layout, last) - first_kv + 1;
  return at::cat(
      {whole.narrow(1, first, last - first + 1), whole.narrow(1, layout.heads + first_kv, kv),
       whole.narrow(1, layout.heads + layout.kv_heads + first_kv, kv)},
      1);
}

}  // namespace archon::test
