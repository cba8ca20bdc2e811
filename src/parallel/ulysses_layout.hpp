#pragma once

#include "archon/parallel/ulysses_heads.hpp"

/// The index arithmetic of the re-layouts before and after Ulysses' all-to-alls, an element at a
/// time, as CUDA kernels go. Tests hold it against slicing by LibTorch.
namespace archon::ulysses {

/// Blocks [cp, tokens, block, d] and the projection [tokens, whole, d] that they are cut from.
struct HeadBlocks {
  UlyssesHeads layout;
  int64_t tokens, d;

  ARCHON_HOST_DEVICE int64_t block_elements() const {
    return layout.cp * tokens * layout.block() * d;
  }
  ARCHON_HOST_DEVICE int64_t whole_elements() const { return tokens * layout.whole() * d; }
  /// The rank whose block element `i` of the blocks is in.
  ARCHON_HOST_DEVICE int rank_of(int64_t i) const {
    return static_cast<int>(i / (tokens * layout.block() * d));
  }
  /// The element of the projection that element `i` of the blocks is a copy of.
  ARCHON_HOST_DEVICE int64_t whole_of(int64_t i) const {
    const int64_t slot = i / d % layout.block(), t = i / d / layout.block() % tokens;
    return (t * layout.whole() + layout.head_in_slot(rank_of(i), slot)) * d + i % d;
  }
  /// The copies of an element of the projection: `ranks` of them, `stride` apart from `first`, the
  /// first in the block of `rank`.
  struct Copies {
    int64_t first, stride;
    int rank, ranks;
  };
  ARCHON_HOST_DEVICE Copies copies_of(int64_t j) const {
    const int64_t t = j / d / layout.whole();
    const UlyssesHeads::Place place = layout.place_of(j / d % layout.whole());
    const int64_t stride = tokens * layout.block() * d;
    return {place.first * stride + (t * layout.block() + place.slot) * d + j % d, stride,
            place.first, place.ranks};
  }
};

/// Blocks [cp, tokens, n] and rows [tokens, cp, n].
struct RowParts {
  int cp;
  int64_t tokens, n;

  ARCHON_HOST_DEVICE int64_t elements() const { return cp * tokens * n; }
  ARCHON_HOST_DEVICE int rank_of(int64_t i) const { return static_cast<int>(i / (tokens * n)); }
  /// The element of the rows that element `i` of the blocks is.
  ARCHON_HOST_DEVICE int64_t row_of(int64_t i) const {
    return (i / n % tokens * cp + rank_of(i)) * n + i % n;
  }
};

}  // namespace archon::ulysses
