#pragma once

#include <cstdint>
#include <vector>

namespace archon {

/// Where each rank's block of a buffer is, in elements.
struct Blocks {
  std::vector<int64_t> counts;
  std::vector<int64_t> offsets;

  explicit Blocks(std::vector<int64_t> block_counts);
  /// `blocks` blocks of `count` elements.
  static Blocks even(int blocks, int64_t count);
  /// `total` elements cut into `blocks` blocks that differ by one element at most.
  static Blocks balanced(int blocks, int64_t total);

  int64_t total() const { return offsets.back() + counts.back(); }
  bool equal() const;
};

}  // namespace archon
