#include "shard_file.hpp"

#include <ATen/ops/from_blob.h>
#include <fmt/format.h>

#include "archon/io/files.hpp"

namespace archon {
namespace {

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

std::string shard_name(int rank) { return fmt::format("shard-{:05}.h5", rank); }

std::string checksum_path(const std::string& dataset) { return "/checksums" + dataset; }

void reserve_with_sums(h5::FileLayout& layout, const std::vector<RoomFor>& datasets) {
  for (const RoomFor& dataset : datasets) layout.reserve(dataset.path, dataset.shape, at::kFloat);
  for (const auto& [path, shape] : datasets) {
    const int64_t elements = whole_box(shape).elements();
    layout.reserve(checksum_path(path), {(elements + kChecksumBlock - 1) / kChecksumBlock},
                   at::kUInt64);
  }
}

h5::FileImage lay_out_shard(const std::vector<OwnedPiece>& pieces) {
  h5::FileLayout layout("archon.checkpoint_shard", 1);
  std::vector<RoomFor> datasets;
  for (const OwnedPiece& piece : pieces) datasets.push_back({piece.path, {piece.elements.numel()}});
  reserve_with_sums(layout, datasets);
  return layout.finish();
}

ManifestFile write_shard(const std::string& path, const h5::FileImage& image,
                         const std::vector<std::span<const float>>& elements,
                         const SaveControl& control) {
  RawFile file(path, RawFile::Mode::create, control);
  // One pass over memory: a block is summed while it is in the cache, then written.
  const FileStructure structure =
      write_around(file, image, elements.size(), [&](std::size_t i, int64_t, const auto& visit) {
        for_each_block(elements[i], [&](std::span<const float> block) {
          visit(block);
          file.write(block.data(), block.size_bytes());
        });
      });
  ManifestFile written = file.finish();
  written.structure = structure;
  return written;
}

ManifestFile write_compressed_shard(const std::string& path, const std::vector<OwnedPiece>& pieces,
                                    int64_t level, const SaveControl& control) {
  {
    h5::File file = h5::File::create(path, "archon.checkpoint_shard", 1);
    for (const OwnedPiece& piece : pieces) {
      control.check_write(path);
      file.write_deflated(piece.path, piece.elements, kChecksumBlock, level);
      std::vector<uint64_t> sums;
      for_each_block(
          {piece.elements.const_data_ptr<float>(),
           static_cast<std::size_t>(piece.elements.numel())},
          [&](auto block) { sums.push_back(xxh3_64(block.data(), block.size_bytes())); });
      file.write(checksum_path(piece.path),
                 at::from_blob(sums.data(), {static_cast<int64_t>(sums.size())}, at::kUInt64));
    }
    file.flush();
  }
  control.check("sync", path);
  sync_path(path);
  return entry_of(path);
}

}  // namespace archon
