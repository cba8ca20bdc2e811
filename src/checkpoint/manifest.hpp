#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace archon {

inline constexpr const char* kManifestName = "manifest.json";
inline constexpr const char* kIndexName = "index.h5";
/// Elements that share a checksum.
inline constexpr int64_t kChecksumBlock = int64_t{1} << 20;

struct ManifestFile {
  std::string name;
  int64_t bytes = 0;
  uint64_t xxh3_64 = 0;  ///< of the whole file
};

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

/// Writes it, synced; RuntimeFailure when the disk refuses.
void write_manifest(const std::string& folder, const Manifest& manifest);

}  // namespace archon
