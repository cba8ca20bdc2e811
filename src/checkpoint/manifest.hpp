#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "archon/io/json_fwd.hpp"
#include "archon/parallel/partition.hpp"

namespace archon {

inline constexpr const char* kManifestName = "manifest.json";
inline constexpr const char* kIndexName = "index.h5";
/// Elements that share a checksum.
inline constexpr int64_t kChecksumBlock = int64_t{1} << 20;

/// The bytes of an HDF5 file that are no elements or checksums of datasets, and their sum. Few:
/// they can be checked before HDF5, which may crash on damage, sees them.
struct FileStructure {
  std::vector<Range> ranges = {};
  uint64_t xxh3_64 = 0;
};

struct ManifestFile {
  std::string name;
  int64_t bytes = 0;
  uint64_t xxh3_64 = 0;          ///< of the whole file
  FileStructure structure = {};  ///< without ranges: not known
};

Json to_json(const ManifestFile& file);
/// Json::exception or InputError when it is none.
ManifestFile parse_manifest_file(const Json& json);

/// What makes a folder a checkpoint.
struct Manifest {
  int64_t step = 0;
  std::vector<ManifestFile> files;
};

/// InputError when it is absent, damaged (its own sum is wrong) or of another schema.
Manifest read_manifest(const std::string& folder);

/// The same, and every file that it lists is there in its size; InputError that names one that is
/// not.
Manifest read_complete_manifest(const std::string& folder);

/// InputError unless HDF5 can be given the file: its structure fits its sum, or, where that is not
/// known, the whole file.
void check_structure(const std::string& path, const ManifestFile& listed);

/// Writes it, synced; RuntimeFailure when the disk refuses.
void write_manifest(const std::string& folder, const Manifest& manifest);

}  // namespace archon
