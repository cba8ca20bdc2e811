#include "box.hpp"

namespace archon {

std::vector<Box> boxes_of_range(const Box& box, Range flat) {
  std::vector<Box> boxes;
  const int64_t width = box.columns.size();
  int64_t at = flat.begin;
  while (at < flat.end) {
    const int64_t row = at / width, column = at % width;
    // Whole rows where the range is at the start of one and reaches its end.
    const int64_t rows = column == 0 ? std::max<int64_t>(1, (flat.end - at) / width) : 1;
    const int64_t end = rows > 1 ? at + rows * width : std::min(flat.end, at - column + width);
    boxes.push_back({{box.rows.begin + row, box.rows.begin + row + rows},
                     {box.columns.begin + column, box.columns.begin + column + (end - at) / rows}});
    at = end;
  }
  return boxes;
}

}  // namespace archon
