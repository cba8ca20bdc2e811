#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "archon/io/hdf5_layout.hpp"
#include "owned_pieces.hpp"
#include "raw_file.hpp"

namespace archon {

/// "shard-00003.h5"
std::string shard_name(int rank);

/// Where a dataset's checksums are: "/checksums/parameters/...".
std::string checksum_path(const std::string& dataset);

/// Makes room for datasets and, behind all of them, for their checksums: reserved dataset i is
/// `datasets[i]`, and datasets.size() + i holds its sums.
struct RoomFor {
  std::string path;
  std::vector<int64_t> shape;
};
void reserve_with_sums(h5::FileLayout& layout, const std::vector<RoomFor>& datasets);

/// A rank's shard. The same for every save of a run.
h5::FileImage lay_out_shard(const std::vector<OwnedPiece>& pieces);

/// Writes a laid-out shard; `elements` are those of its pieces. Without HDF5.
ManifestFile write_shard(const std::string& path, const h5::FileImage& image,
                         const std::vector<std::span<const float>>& elements,
                         const SaveControl& control);

/// Writes a shard of compressed datasets, with HDF5.
ManifestFile write_compressed_shard(const std::string& path, const std::vector<OwnedPiece>& pieces,
                                    int64_t level, const SaveControl& control);

/// Goes through a laid-out file with room for `datasets` datasets and their sums. `elements(i,
/// visit)` hands the elements of dataset i to `visit(block)`, block after block; they are where
/// they belong by then. HDF5's own parts and the sums are written.
template <class Elements>
FileStructure write_around(RawFile& file, const h5::FileImage& image, std::size_t datasets,
                           const Elements& elements) {
  std::vector<std::vector<uint64_t>> sums(datasets);
  FileStructure structure;
  Xxh3Stream structure_sum;
  int64_t at = 0;
  for (const h5::FileImage::Segment& segment : image.segments) {
    const auto index = static_cast<std::size_t>(std::max<int64_t>(0, segment.reserved));
    if (segment.reserved < 0) {
      file.write(segment.content.data(), segment.content.size());
      structure.ranges.push_back({at, at + segment.bytes});
      structure_sum.add(segment.content.data(), segment.content.size());
    } else if (index < datasets) {
      elements(index, segment.bytes, [&](std::span<const float> block) {
        sums[index].push_back(xxh3_64(block.data(), block.size_bytes()));
      });
    } else {
      file.write(sums[index - datasets].data(), sums[index - datasets].size() * sizeof(uint64_t));
    }
    at += segment.bytes;
  }
  structure.xxh3_64 = structure_sum.value();
  return structure;
}

}  // namespace archon
