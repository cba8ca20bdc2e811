#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "archon/base/checksum.hpp"
#include "archon/base/error.hpp"
#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/comm/agreement.hpp"
#include "block_file.hpp"
#include "shard_file.hpp"

namespace archon {
namespace {

/// What HDF5 still reads of a damaged file: which blocks of which datasets are wrong.
std::vector<std::string> damaged_datasets(const std::string& path) {
  std::vector<std::string> found;
  const BlockFile file(path);
  std::vector<float> buffer(kChecksumBlock);
  for (const h5::DatasetInfo& info : file.hdf5().datasets()) {
    if (!file.hdf5().has(checksum_path(info.path))) continue;
    std::vector<int64_t> blocks;
    const std::string failure = attempt([&] {
      const BlockDataset dataset = file.dataset(info.path);
      for (int64_t block = 0; block < static_cast<int64_t>(dataset.sums.size()); ++block)
        if (!attempt([&] { file.read(dataset, block, buffer.data()); }).empty())
          blocks.push_back(block);
    });
    if (!failure.empty()) found.push_back(failure);
    if (!blocks.empty())
      found.push_back(fmt::format("{}: of its blocks of {} elements, {} do not fit their checksums",
                                  info.path, kChecksumBlock, fmt::join(blocks, ", ")));
  }
  return found;
}

/// Why a file of the right size does not fit its sum.
std::vector<std::string> locate(const std::string& path, const ManifestFile& listed) {
  const std::string general = "its bytes do not fit the checksum in the manifest";
  if (!path.ends_with(".h5")) return {general};
  std::vector<std::string> found;
  const std::string failure = attempt([&] {
    check_structure(path, listed);
    found = damaged_datasets(path);
  });
  if (!failure.empty()) return {general + "; " + failure};
  if (found.empty()) return {general + "; the elements of all datasets fit theirs"};
  return found;
}

std::vector<std::string> check_file(const std::string& path, const ManifestFile& listed) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return {"it is missing"};
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path, error));
  if (error) return {"cannot be read: " + error.message()};
  if (size != listed.bytes)
    return {fmt::format("it has {} bytes instead of {}: it was {}", size, listed.bytes,
                        size < listed.bytes ? "cut off" : "added to")};
  try {
    if (xxh3_64_of_file(path) == listed.xxh3_64) return {};
  } catch (const RuntimeFailure& failure) {
    return {failure.what()};
  }
  return locate(path, listed);
}

}  // namespace

bool is_file_whole(const std::string& folder, const std::string& name) {
  Manifest manifest;
  if (!attempt([&] { manifest = read_manifest(folder); }).empty()) return false;
  const auto listed = std::ranges::find(manifest.files, name, &ManifestFile::name);
  return listed != manifest.files.end() && check_file(folder + "/" + name, *listed).empty();
}

std::vector<CheckpointDamage> verify_checkpoint(const std::string& folder, int64_t* bytes) {
  if (bytes != nullptr) *bytes = 0;
  Manifest manifest;
  const std::string failure = attempt([&] { manifest = read_manifest(folder); });
  if (!failure.empty()) return {{kManifestName, failure}};
  std::vector<CheckpointDamage> damage;
  for (const ManifestFile& listed : manifest.files) {
    for (std::string& what : check_file(folder + "/" + listed.name, listed))
      damage.push_back({listed.name, std::move(what)});
    if (bytes != nullptr) *bytes += listed.bytes;
  }
  return damage;
}

}  // namespace archon
