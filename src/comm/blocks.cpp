#include "blocks.hpp"

#include <algorithm>
#include <numeric>

namespace archon {

Blocks::Blocks(std::vector<int64_t> block_counts)
    : counts(std::move(block_counts)), offsets(counts.size()) {
  std::exclusive_scan(counts.begin(), counts.end(), offsets.begin(), int64_t{0});
}

Blocks Blocks::even(int blocks, int64_t count) {
  return Blocks(std::vector<int64_t>(blocks, count));
}

Blocks Blocks::balanced(int blocks, int64_t total) {
  std::vector<int64_t> counts(blocks, total / blocks);
  for (int64_t i = 0; i < total % blocks; ++i) ++counts[i];
  return Blocks(std::move(counts));
}

bool Blocks::equal() const {
  return std::all_of(counts.begin(), counts.end(), [&](int64_t c) { return c == counts.front(); });
}

}  // namespace archon
