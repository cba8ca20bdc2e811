#include "block_copy.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "archon/base/error.hpp"

namespace archon {
namespace {

/// So many blocks are on their way from the disk while one is checked and copied.
constexpr std::size_t kBlocksAhead = 16;

/// A block, and the copies (in a list) that need it.
struct BlockRead {
  const BlockDataset* dataset;
  int64_t block;
  std::size_t first, last;
};

Range bytes_of(const BlockRead& read) {
  if (read.dataset->address < 0) return {};
  constexpr int64_t kSize = sizeof(float);
  const Range elements = read.dataset->block(read.block);
  return {read.dataset->address + elements.begin * kSize,
          read.dataset->address + elements.end * kSize};
}

std::vector<BlockRead> blocks_of(const std::vector<BlockCopy>& copies,
                                 const std::map<std::string, BlockDataset>& datasets) {
  std::vector<BlockRead> reads;
  for (std::size_t i = 0; i < copies.size(); ++i) {
    const BlockDataset& dataset = datasets.at(copies[i].dataset);
    const int64_t end = (copies[i].end() + kChecksumBlock - 1) / kChecksumBlock;
    for (int64_t block = copies[i].from / kChecksumBlock; block < end; ++block) {
      const bool again =
          !reads.empty() && reads.back().dataset == &dataset && reads.back().block == block;
      if (again)
        reads.back().last = i + 1;
      else
        reads.push_back({&dataset, block, i, i + 1});
    }
  }
  return reads;
}

/// `elements` are those of `block`.
void copy_part(const BlockCopy& copy, Range block, const float* elements) {
  int64_t run = std::max<int64_t>(0, block.begin - copy.from) / copy.from_stride;
  for (; run < copy.runs; ++run) {
    const int64_t begin = copy.from + run * copy.from_stride;
    if (begin >= block.end) return;
    const Range part = intersect({begin, begin + copy.run}, block);
    std::memcpy(copy.to + run * copy.to_stride + (part.begin - begin),
                elements + (part.begin - block.begin),
                static_cast<std::size_t>(part.size()) * sizeof(float));
  }
}

/// Where a block can be read to without a copy: one run holds all of it.
float* place_of_whole(const BlockCopy& copy, Range block) {
  const bool whole = copy.runs == 1 && copy.from <= block.begin && block.end <= copy.end();
  return whole ? copy.to + (block.begin - copy.from) : nullptr;
}

}  // namespace

BlockCopy copy_of_common(const Box& saved, const std::string& dataset, int64_t begin,
                         const Box& wanted, float* to) {
  const Box common = intersect(wanted, saved);
  const auto offset_in = [&](const Box& box) {
    return (common.rows.begin - box.rows.begin) * box.columns.size() + common.columns.begin -
           box.columns.begin;
  };
  BlockCopy copy{dataset,
                 begin + offset_in(saved),
                 common.columns.size(),
                 common.rows.size(),
                 saved.columns.size(),
                 wanted.columns.size(),
                 to + offset_in(wanted)};
  const bool one_run = copy.run == copy.from_stride && copy.run == copy.to_stride;
  if (one_run) copy.from_stride = copy.to_stride = copy.run *= std::exchange(copy.runs, 1);
  return copy;
}

void copy_blocks(const BlockFile& file, std::vector<BlockCopy> copies) {
  std::map<std::string, BlockDataset> datasets;
  for (const BlockCopy& copy : copies) {
    if (!datasets.contains(copy.dataset))
      datasets.emplace(copy.dataset, file.dataset(copy.dataset));
    const int64_t elements = datasets.at(copy.dataset).elements;
    ARCHON_VALIDATE(copy.from >= 0 && copy.end() <= elements,
                    "{}: {} has {} elements, where {} leads to element {}; one of the two files is "
                    "damaged",
                    file.hdf5().path(), copy.dataset, elements, kIndexName, copy.end() - 1);
  }
  std::ranges::stable_sort(copies, {}, [&](const BlockCopy& copy) {
    return std::pair(datasets.at(copy.dataset).address, copy.from);
  });
  const std::vector<BlockRead> reads = blocks_of(copies, datasets);
  std::vector<float> buffer;
  std::size_t ahead = 0;
  for (std::size_t i = 0; i < reads.size(); ++i) {
    for (; ahead < std::min(reads.size(), i + kBlocksAhead); ++ahead)
      file.will_read(bytes_of(reads[ahead]));
    const auto& [dataset, block, first, last] = reads[i];
    const Range elements = dataset->block(block);
    float* const place = last - first == 1 ? place_of_whole(copies[first], elements) : nullptr;
    if (place != nullptr) {
      file.read(*dataset, block, place);
      continue;
    }
    buffer.resize(kChecksumBlock);
    file.read(*dataset, block, buffer.data());
    for (std::size_t copy = first; copy < last; ++copy)
      copy_part(copies[copy], elements, buffer.data());
  }
}

}  // namespace archon
