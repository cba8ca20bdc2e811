#include "shard_file.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace archon {

std::string shard_name(int rank) { return fmt::format("shard-{:05}.h5", rank); }

std::string checksum_path(const std::string& dataset) { return "/checksums" + dataset; }

namespace {

int64_t blocks_of(int64_t elements) { return (elements + kChecksumBlock - 1) / kChecksumBlock; }

/// Calls `visit` with one block after the other.
template <class Visit>
void for_each_block(std::span<const float> elements, const Visit& visit) {
  while (!elements.empty()) {
    const std::size_t count = std::min<std::size_t>(elements.size(), kChecksumBlock);
    visit(elements.first(count));
    elements = elements.subspan(count);
  }
}

}  // namespace

std::vector<uint64_t> block_checksums(std::span<const float> elements) {
  std::vector<uint64_t> sums;
  for_each_block(elements, [&](std::span<const float> block) {
    sums.push_back(xxh3_64(block.data(), block.size_bytes()));
  });
  return sums;
}

h5::FileImage lay_out_shard(const std::vector<OwnedPiece>& pieces) {
  h5::FileLayout layout("archon.checkpoint_shard", 1);
  for (const OwnedPiece& piece : pieces)
    layout.reserve(piece.path, {piece.elements.numel()}, at::kFloat);
  for (const OwnedPiece& piece : pieces)
    layout.reserve(checksum_path(piece.path), {blocks_of(piece.elements.numel())}, at::kUInt64);
  return layout.finish();
}

ManifestFile write_shard(const std::string& path, const h5::FileImage& image,
                         const std::vector<std::span<const float>>& elements,
                         const RequestedFailure& requested) {
  RawFile file(path, requested);
  std::vector<std::vector<uint64_t>> sums(elements.size());
  for (const h5::FileImage::Segment& segment : image.segments) {
    if (segment.reserved < 0) {
      file.write(segment.content.data(), segment.content.size());
      continue;
    }
    const auto index = static_cast<std::size_t>(segment.reserved);
    if (index < elements.size())
      // One pass over memory: a block is summed while it is in the cache, then written.
      for_each_block(elements[index], [&](std::span<const float> block) {
        sums[index].push_back(xxh3_64(block.data(), block.size_bytes()));
        file.write(block.data(), block.size_bytes());
      });
    else
      file.write(sums[index - elements.size()].data(),
                 sums[index - elements.size()].size() * sizeof(uint64_t));
  }
  return file.finish();
}

}  // namespace archon
