#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "block_file.hpp"
#include "box.hpp"

namespace archon {

/// Runs of elements, equally far apart, from a dataset to memory.
struct BlockCopy {
  std::string dataset;
  int64_t from = 0;  ///< first element of the first run
  int64_t run = 0;   ///< elements
  int64_t runs = 1;
  int64_t from_stride = 0, to_stride = 0;  ///< from the begin of a run to that of the next
  float* to = nullptr;

  int64_t end() const { return from + (runs - 1) * from_stride + run; }
};

/// What `saved` and `wanted` have in common. The elements of `saved` lie in `dataset` from element
/// `begin` on, those of `wanted` go to `to`.
BlockCopy copy_of_common(const Box& saved, const std::string& dataset, int64_t begin,
                         const Box& wanted, float* to);

/// Carries copies from one file out, reading each block once where copies lie in order.
void copy_blocks(const BlockFile& file, std::vector<BlockCopy> copies);

}  // namespace archon
