#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <functional>
#include <vector>

#include "archon/parallel/partition.hpp"

namespace archon {

/// A rectangle of a tensor seen as rows (dim 0) x columns (all other dims, flattened; 1 for a
/// vector). Its elements in row-major order lie one behind the other wherever it is stored by
/// itself.
struct Box {
  Range rows;
  Range columns;
  int64_t elements() const { return rows.size() * columns.size(); }
  friend bool operator==(const Box& a, const Box& b) {
    return a.rows.begin == b.rows.begin && a.rows.end == b.rows.end &&
           a.columns.begin == b.columns.begin && a.columns.end == b.columns.end;
  }
};

inline Box intersect(const Box& a, const Box& b) {
  return {intersect(a.rows, b.rows), intersect(a.columns, b.columns)};
}

/// A tensor of `shape` as one box.
inline Box whole_box(const std::vector<int64_t>& shape) {
  const int64_t rows = shape.empty() ? 1 : shape.front();
  const int64_t columns = std::accumulate(shape.begin() + (shape.empty() ? 0 : 1), shape.end(),
                                          int64_t{1}, std::multiplies<>());
  return {{0, rows}, {0, columns}};
}

/// The elements [flat.begin, flat.end) of `box`, counted in its row-major order, as at most three
/// boxes, in that order: the rest of a row, whole rows, the beginning of a row.
std::vector<Box> boxes_of_range(const Box& box, Range flat);

}  // namespace archon
