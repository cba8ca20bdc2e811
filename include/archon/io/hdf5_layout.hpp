#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "archon/io/hdf5.hpp"

namespace archon::h5 {

/// A rectangle of a dataset: one entry for each dim.
struct Slab {
  std::vector<int64_t> begin, count;
};

/// A laid-out file as bytes, in segments that lie one behind the other and cover it.
struct FileImage {
  struct Segment {
    int64_t bytes = 0;
    int64_t reserved = -1;  ///< number of the reserved dataset whose elements these are, in the
                            ///< order of reserve(); -1: HDF5's own, in `content`
    std::string content = {};
  };
  std::vector<Segment> segments;
};

/// Lays out an HDF5 file in memory, to be written without HDF5: by another thread, for which HDF5
/// is not safe, and to a disk that may be full, after which HDF5 cannot close a file. Only what
/// HDF5 itself stores takes memory; reserved datasets do not.
class FileLayout {
 public:
  /// As File::create.
  FileLayout(const std::string& schema, int schema_version);
  ~FileLayout();
  FileLayout(const FileLayout&) = delete;
  FileLayout& operator=(const FileLayout&) = delete;

  /// For all that is small: attributes, scalars.
  File& file() { return *file_; }
  /// Makes a contiguous dataset whose elements are not known yet. Those reserved later lie behind
  /// those reserved before. `shape` without zeros.
  void reserve(const std::string& dataset, const std::vector<int64_t>& shape, at::ScalarType dtype);
  /// Nothing can be added afterwards.
  FileImage finish();

 private:
  struct Room {
    int64_t offset, bytes;
  };
  std::string path_;
  int descriptor_;
  std::optional<File> file_;
  std::vector<Room> reserved_;
};

/// Elements [begin, begin + size of slab) of the one-dimensional dataset of another file, shown in
/// a rectangle of a virtual one.
struct VirtualSource {
  std::string file;        ///< relative to the folder of the virtual dataset's file
  int64_t elements = 0;    ///< of the source dataset, whose path is that of the virtual one
  int64_t begin = 0;
  Slab slab;
};

/// Makes a float32 dataset of elements that lie in other files; NaN where there are none.
void create_virtual(File& file, const std::string& dataset, const std::vector<int64_t>& shape,
                    const std::vector<VirtualSource>& sources);

}  // namespace archon::h5
