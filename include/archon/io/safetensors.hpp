#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "archon/io/mapped_file.hpp"

namespace archon {

/// BFloat16 -> "BF16"; RuntimeFailure for types that safetensors files of Archon do not hold.
std::string_view safetensors_dtype_name(at::ScalarType dtype);

/// Texts that a safetensors file holds beside its tensors, by name.
using SafetensorsMetadata = std::map<std::string, std::string>;

/// Where and what one tensor of a safetensors file is.
struct SafetensorsEntry {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  std::size_t begin = 0;  ///< bytes from the start of the file
  std::size_t end = 0;
};

/// A memory-mapped safetensors file (format: github.com/huggingface/safetensors).
///
/// The constructor checks the whole header against the file: length, JSON, known dtype, shape
/// against offsets, no name twice, no overlap, no gap, nothing behind the end. What fails is an
/// InputError that names the file, the tensor and the numbers.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return path_; }
  const std::map<std::string, SafetensorsEntry>& entries() const { return entries_; }
  /// A read-only view of the mapped bytes, which it keeps mapped; a copy only where the bytes are
  /// not aligned for their type. InputError if there is no such tensor.
  at::Tensor view(const std::string& name) const;

 private:
  std::string path_;
  std::shared_ptr<MappedFile> file_;
  std::map<std::string, SafetensorsEntry> entries_;
};

/// The weights of a HuggingFace folder: model.safetensors, or the files that
/// model.safetensors.index.json names (each listed tensor must be where the index says, in a file
/// of the same folder; what else those files hold is offered too). InputError if not so.
class WeightFolder {
 public:
  explicit WeightFolder(const std::string& folder);

  const std::string& path() const { return folder_; }
  /// Names of all tensors, sorted.
  std::vector<std::string> names() const;
  bool has(const std::string& name) const { return where_.count(name) != 0; }
  const SafetensorsEntry& entry(const std::string& name) const;
  at::Tensor view(const std::string& name) const;

 private:
  std::string folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t> where_;  // tensor -> index into files_
};

/// One tensor that is to be written: known before its bytes are.
struct SafetensorsSpec {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
};

/// Writes `specs`, with `metadata`, in order as model.safetensors, or as model-0000i-of-0000n.safetensors plus an
/// index when they exceed `max_shard_bytes`. `produce` is called once per tensor, in order, on
/// every rank that calls this; where `write` is false nothing touches the disk (so that ranks can
/// take part in gathering what one of them writes). Files are written beside, synced and renamed
/// when all are complete; then weights of an earlier save that are left are removed. A save that
/// fails leaves the earlier one. RuntimeFailure when the disk refuses.
void write_safetensors_folder(const std::string& folder, const std::vector<SafetensorsSpec>& specs,
                              std::int64_t max_shard_bytes,
                              const std::function<at::Tensor(const SafetensorsSpec&)>& produce,
                              bool write, const SafetensorsMetadata& metadata = {});

}  // namespace archon
