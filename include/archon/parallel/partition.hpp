#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace archon {

/// The items [begin, end).
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

/// The items of `a` that `b` holds, too; an empty range within `a` when there are none.
inline Range intersect(Range a, Range b) {
  const int64_t begin = std::clamp(b.begin, a.begin, a.end);
  return {begin, std::clamp(b.end, begin, a.end)};
}

/// Block `index` of `total` items in `parts` contiguous blocks whose sizes differ by at most one,
/// the larger ones first.
inline Range even_range(int64_t total, int parts, int index) {
  const int64_t base = total / parts;
  const int64_t larger = total % parts;
  const int64_t begin = index * base + (index < larger ? index : larger);
  return {begin, begin + base + (index < larger ? 1 : 0)};
}

/// Sizes of all blocks of even_range.
inline std::vector<int64_t> even_sizes(int64_t total, int parts) {
  std::vector<int64_t> sizes(parts);
  for (int i = 0; i < parts; ++i) sizes[i] = even_range(total, parts, i).size();
  return sizes;
}

}  // namespace archon
