#include <fmt/ranges.h>

#include <bit>
#include <filesystem>
#include <regex>
#include <set>
#include <span>

#include "archon/base/error.hpp"
#include "archon/io/files.hpp"
#include "archon/io/json.hpp"
#include "archon/io/safetensors.hpp"
#include "atomic_file.hpp"
#include "safetensors_types.hpp"

namespace archon {
namespace fs = std::filesystem;
namespace {

static_assert(std::endian::native == std::endian::little);

using Specs = std::span<const SafetensorsSpec>;

int64_t bytes_of(const SafetensorsSpec& spec) {
  const auto bytes = tensor_bytes(spec.dtype, spec.shape);
  ARCHON_ENSURE(bytes, "{} has the impossible shape [{}]", spec.name, fmt::join(spec.shape, ", "));
  return *bytes;
}

void ensure_distinct(const std::vector<SafetensorsSpec>& specs) {
  std::set<std::string> names{kMetadataKey};
  for (const SafetensorsSpec& spec : specs)
    ARCHON_ENSURE(names.insert(spec.name).second, "two tensors would be written as {}", spec.name);
}

/// Consecutive tensors per file; a tensor larger than the limit gets a file of its own.
std::vector<Specs> split(const std::vector<SafetensorsSpec>& specs, int64_t max_shard_bytes) {
  std::vector<Specs> shards;
  std::size_t begin = 0;
  int64_t bytes = 0;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const int64_t more = bytes_of(specs[i]);
    if (i > begin && bytes > max_shard_bytes - more) {
      shards.push_back(Specs(specs).subspan(begin, i - begin));
      begin = i;
      bytes = 0;
    }
    bytes += more;
  }
  shards.push_back(Specs(specs).subspan(begin));
  return shards;
}

std::string shard_name(std::size_t shard, std::size_t shards) {
  if (shards == 1) return kWeightsFile;
  return fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards);
}

/// The length in front and the JSON, padded so that the data begins at a multiple of 8.
std::string header_of(Specs specs, const SafetensorsMetadata& metadata) {
  Json header{{kMetadataKey, {{"format", "pt"}}}};
  for (const auto& [name, text] : metadata) header[kMetadataKey][name] = text;
  int64_t begin = 0;
  for (const SafetensorsSpec& spec : specs) {
    const int64_t end = begin + bytes_of(spec);
    header[spec.name] = {{"dtype", safetensors_dtype_name(spec.dtype)},
                         {"shape", spec.shape},
                         {"data_offsets", {begin, end}}};
    begin = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const std::uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
}

void write_tensor(AtomicFile& file, const SafetensorsSpec& spec, const at::Tensor& tensor) {
  ARCHON_ENSURE(tensor.scalar_type() == spec.dtype && tensor.sizes() == at::IntArrayRef(spec.shape),
                "{} came as {} [{}], but {} [{}] was announced", spec.name,
                c10::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), ", "),
                c10::toString(spec.dtype), fmt::join(spec.shape, ", "));
  const at::Tensor host = tensor.cpu().contiguous();
  file.write(host.const_data_ptr(), host.nbytes());
}

std::string index_of(const std::vector<Specs>& shards) {
  int64_t total = 0;
  Json map = Json::object();
  for (std::size_t i = 0; i < shards.size(); ++i)
    for (const SafetensorsSpec& spec : shards[i]) {
      total += bytes_of(spec);
      map[spec.name] = shard_name(i, shards.size());
    }
  return Json{{"metadata", {{"total_size", total}}}, {"weight_map", map}}.dump(2) + "\n";
}

void remove_file(const fs::path& path) {
  std::error_code error;
  fs::remove(path, error);
  ARCHON_ENSURE(!error, "cannot remove {}: {}", path.string(), error.message());
}

/// Weights of an earlier save that the new ones have not replaced.
void remove_stale(const fs::path& folder, const std::set<std::string>& current) {
  static const std::regex weights(
      R"(model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json)");
  std::vector<fs::path> stale;
  for (const auto& item : fs::directory_iterator(folder)) {
    const std::string name = item.path().filename().string();
    if (std::regex_match(name, weights) && !current.contains(name)) stale.push_back(item.path());
  }
  for (const fs::path& path : stale) remove_file(path);
}

/// Puts finished files in place. Several ones go without an index in between: a folder caught
/// half-way then has none, rather than one that leads to old and new shards.
void publish(const fs::path& folder, std::vector<AtomicFile>& files,
             const std::vector<Specs>& shards) {
  std::set<std::string> current;
  for (std::size_t i = 0; i < shards.size(); ++i) current.insert(shard_name(i, shards.size()));
  if (shards.size() > 1) remove_file(folder / kWeightsIndex);
  for (AtomicFile& file : files) file.publish();
  sync_path(folder.string());
  if (shards.size() > 1) {
    write_text_file((folder / kWeightsIndex).string(), index_of(shards));
    current.insert(kWeightsIndex);
  }
  remove_stale(folder, current);
  sync_path(folder.string());
}

}  // namespace

void write_safetensors_folder(const std::string& folder, const std::vector<SafetensorsSpec>& specs,
                              std::int64_t max_shard_bytes,
                              const std::function<at::Tensor(const SafetensorsSpec&)>& produce,
                              bool write, const SafetensorsMetadata& metadata) {
  ARCHON_ENSURE(max_shard_bytes > 0, "files of {} bytes cannot hold weights", max_shard_bytes);
  ensure_distinct(specs);
  if (!write) {
    for (const SafetensorsSpec& spec : specs) produce(spec);
    return;
  }
  std::error_code error;
  fs::create_directories(folder, error);
  ARCHON_ENSURE(!error, "cannot make the folder {}: {}", folder, error.message());

  const std::vector<Specs> shards = split(specs, max_shard_bytes);
  std::vector<AtomicFile> files;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    AtomicFile& file =
        files.emplace_back((fs::path(folder) / shard_name(i, shards.size())).string());
    file.write(header_of(shards[i], metadata));
    for (const SafetensorsSpec& spec : shards[i]) write_tensor(file, spec, produce(spec));
    file.finish();
  }
  publish(folder, files, shards);
}

}  // namespace archon
