#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "archon/io/hdf5.hpp"
#include "archon/parallel/partition.hpp"
#include "manifest.hpp"

namespace archon {

/// A float32 dataset in blocks of kChecksumBlock elements, in row-major order.
struct BlockDataset {
  std::string path;
  h5::Handle id;
  int64_t elements = 0;
  int64_t address = -1;  ///< of the first element, in bytes from the start of the file; -1: not
                         ///< in one piece, so that HDF5 has to read it
  std::vector<uint64_t> sums;  ///< one for each block

  Range block(int64_t index) const {
    return {index * kChecksumBlock, std::min(elements, (index + 1) * kChecksumBlock)};
  }
};

/// A file of a checkpoint, of which no element is believed before its block fits its checksum.
/// Everything is an InputError that names file and dataset.
class BlockFile {
 public:
  explicit BlockFile(const std::string& path);
  ~BlockFile();
  BlockFile(const BlockFile&) = delete;
  BlockFile& operator=(const BlockFile&) = delete;

  const h5::File& hdf5() const { return file_; }
  BlockDataset dataset(const std::string& path) const;
  /// The elements of one block.
  void read(const BlockDataset& dataset, int64_t block, float* to) const;
  /// Lets the system read these bytes ahead.
  void will_read(Range bytes) const;

 private:
  void read_bytes(const BlockDataset& dataset, Range elements, float* to) const;
  h5::File file_;
  int descriptor_;
};

}  // namespace archon
