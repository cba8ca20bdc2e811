#pragma once

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
/// Of each block of kChecksumBlock elements.
std::vector<uint64_t> block_checksums(std::span<const float> elements);

/// A file with room for the elements of every piece and, behind them, for their checksums: reserved
/// dataset i is piece i, and pieces.size() + i its sums. The same for every save of a run.
h5::FileImage lay_out_shard(const std::vector<OwnedPiece>& pieces);

/// Writes a laid-out shard; `elements` are those of its pieces. Without HDF5.
ManifestFile write_shard(const std::string& path, const h5::FileImage& image,
                         const std::vector<std::span<const float>>& elements,
                         const RequestedFailure& requested);

}  // namespace archon
