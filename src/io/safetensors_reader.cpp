#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "archon/base/error.hpp"
#include "archon/io/json.hpp"
#include "archon/io/safetensors.hpp"
#include "safetensors_types.hpp"

namespace archon {
namespace {

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMostHeaderBytes = 100'000'000;  // as the format's own library

std::uint64_t header_bytes(const std::string& path, const MappedFile& file) {
  ARCHON_VALIDATE(
      file.size() >= kLengthBytes,
      "{} is not a safetensors file: it has {} bytes, fewer than the {} of the header's "
      "length",
      path, file.size(), kLengthBytes);
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  ARCHON_VALIDATE(length <= kMostHeaderBytes,
                  "{} is not a safetensors file: its header would be {} bytes long, more than {}",
                  path, length, kMostHeaderBytes);
  ARCHON_VALIDATE(length <= file.size() - kLengthBytes,
                  "{} is cut off: its header should be {} bytes long, the file has {} bytes", path,
                  length, file.size());
  return length;
}

/// A list of non-negative integers, or nothing.
std::optional<std::vector<int64_t>> integers(const Json& entry, const char* key) {
  const auto list = entry.find(key);
  if (list == entry.end() || !list->is_array()) return {};
  std::vector<int64_t> values;
  for (const Json& value : *list) {
    constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<int64_t>::max());
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > most) return {};
    values.push_back(value.get<int64_t>());
  }
  return values;
}

SafetensorsEntry parse_entry(const std::string& path, const std::string& name, const Json& json,
                             std::uint64_t data_begin, std::uint64_t file_size) {
  ARCHON_VALIDATE(json.is_object(), "{}: the header's entry of {} is not an object", path, name);
  const auto type = json.find("dtype");
  ARCHON_VALIDATE(type != json.end() && type->is_string(), "{}: {} has no dtype", path, name);
  const auto dtype = safetensors_dtype(type->get_ref<const std::string&>());
  ARCHON_VALIDATE(dtype, "{}: {} has the dtype {}, which Archon does not read", path, name,
                  type->get_ref<const std::string&>());

  const auto shape = integers(json, "shape");
  ARCHON_VALIDATE(shape, "{}: the shape of {} is not a list of sizes (integers from 0)", path,
                  name);
  const auto bytes = tensor_bytes(*dtype, *shape);
  ARCHON_VALIDATE(bytes, "{}: the shape [{}] of {} is too large", path, fmt::join(*shape, ", "),
                  name);

  const auto offsets = integers(json, "data_offsets");
  ARCHON_VALIDATE(offsets && offsets->size() == 2,
                  "{}: the data_offsets of {} are not two integers from 0", path, name);
  const int64_t begin = (*offsets)[0], end = (*offsets)[1];
  ARCHON_VALIDATE(begin <= end && static_cast<std::uint64_t>(end) <= file_size - data_begin,
                  "{}: the data_offsets [{}, {}] of {} are outside the file's {} bytes of data",
                  path, begin, end, name, file_size - data_begin);
  ARCHON_VALIDATE(end - begin == *bytes, "{}: {} ({}, shape [{}]) needs {} bytes, its data has {}",
                  path, name, c10::toString(*dtype), fmt::join(*shape, ", "), *bytes, end - begin);
  return {name, *dtype, *shape, data_begin + begin, data_begin + end};
}

void validate_metadata(const std::string& path, const Json& metadata) {
  const bool good = metadata.is_object() && std::ranges::all_of(metadata, [](const Json& value) {
                      return value.is_string();
                    });
  ARCHON_VALIDATE(good, "{}: {} is not an object of strings", path, kMetadataKey);
}

/// The tensors' bytes must cover the data from its first to its last byte, each once.
void validate_coverage(const std::string& path, const std::map<std::string, SafetensorsEntry>& all,
                       std::size_t data_begin, std::size_t file_size) {
  std::vector<const SafetensorsEntry*> sorted;
  for (const auto& [name, entry] : all) sorted.push_back(&entry);
  std::ranges::sort(sorted, {}, [](const auto* e) { return std::pair(e->begin, e->end); });
  std::size_t end = data_begin;
  for (const SafetensorsEntry* entry : sorted) {
    ARCHON_VALIDATE(entry->begin >= end,
                    "{}: {} overlaps another tensor: it begins at byte {}, "
                    "the one before ends at {}",
                    path, entry->name, entry->begin, end);
    ARCHON_VALIDATE(entry->begin == end,
                    "{}: there is a gap before {}: it begins at byte {}, what "
                    "comes before ends at {}",
                    path, entry->name, entry->begin, end);
    end = entry->end;
  }
  ARCHON_VALIDATE(end == file_size, "{}: {} bytes follow the last tensor", path, file_size - end);
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path)
    : path_(path), file_(std::make_shared<MappedFile>(path)) {
  const std::uint64_t length = header_bytes(path, *file_);
  const auto* text = reinterpret_cast<const char*>(file_->data()) + kLengthBytes;
  const Json header = parse_json({text, length}, "the header of " + path);
  ARCHON_VALIDATE(header.is_object(), "the header of {} is not a JSON object", path);
  const std::uint64_t data_begin = kLengthBytes + length;
  for (const auto& [name, json] : header.items()) {
    if (name == kMetadataKey)
      validate_metadata(path, json);
    else
      entries_.emplace(name, parse_entry(path, name, json, data_begin, file_->size()));
  }
  validate_coverage(path, entries_, data_begin, file_->size());
}

at::Tensor SafetensorsFile::view(const std::string& name) const {
  const auto found = entries_.find(name);
  ARCHON_VALIDATE(found != entries_.end(), "{} has no tensor {}", path_, name);
  const SafetensorsEntry& entry = found->second;
  const std::byte* bytes = file_->data() + entry.begin;
  if (reinterpret_cast<std::uintptr_t>(bytes) % c10::elementSize(entry.dtype) != 0) {
    at::Tensor copy = at::empty(entry.shape, entry.dtype);
    std::copy_n(bytes, entry.end - entry.begin, static_cast<std::byte*>(copy.mutable_data_ptr()));
    return copy;
  }
  return at::from_blob(
      const_cast<std::byte*>(bytes), entry.shape, [keep = file_](void*) {},
      at::TensorOptions(entry.dtype));
}

}  // namespace archon
