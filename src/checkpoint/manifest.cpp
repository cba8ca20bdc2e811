#include "manifest.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "archon/base/checksum.hpp"
#include "archon/base/error.hpp"
#include "archon/base/version.hpp"
#include "archon/io/files.hpp"
#include "archon/io/json.hpp"

namespace archon {
namespace {

constexpr const char* kSchema = "archon.checkpoint_manifest";
constexpr int64_t kSchemaVersion = 1;
constexpr const char* kSum = "xxh3_64";

std::string to_hex(uint64_t sum) { return fmt::format("{:016x}", sum); }

uint64_t parse_hex(const Json& json) {
  return std::strtoull(json.get<std::string>().c_str(), nullptr, 16);
}

std::string own_sum(const Json& json) {
  const std::string text = json.dump();
  return to_hex(xxh3_64(text.data(), text.size()));
}

Manifest parse(Json json, const std::string& path) {
  const std::string sum = json.at(kSum).get<std::string>();
  json.erase(kSum);
  ARCHON_VALIDATE(own_sum(json) == sum, "{} is damaged: its own checksum does not fit", path);
  ARCHON_VALIDATE(json.at("schema") == kSchema && json.at("schema_version") == kSchemaVersion,
                  "{}: schema {} version {}; this Archon reads {} version {}", path,
                  json.at("schema").dump(), json.at("schema_version").dump(), kSchema,
                  kSchemaVersion);
  Manifest manifest{json.at("step").get<int64_t>(), {}};
  for (const Json& file : json.at("files")) manifest.files.push_back(parse_manifest_file(file));
  return manifest;
}

uint64_t sum_of_structure(const std::string& path, const ManifestFile& listed) {
  if (listed.structure.ranges.empty()) return xxh3_64_of_file(path);
  std::ifstream file(path, std::ios::binary);
  Xxh3Stream sum;
  for (const Range& range : listed.structure.ranges) {
    std::string bytes(static_cast<std::size_t>(range.size()), '\0');
    file.seekg(range.begin).read(bytes.data(), range.size());
    ARCHON_VALIDATE(file, "{}: cannot read {} bytes at {}", path, range.size(), range.begin);
    sum.add(bytes.data(), bytes.size());
  }
  return sum.value();
}

}  // namespace

Json to_json(const ManifestFile& file) {
  Json json = {{"name", file.name}, {"bytes", file.bytes}, {kSum, to_hex(file.xxh3_64)}};
  if (file.structure.ranges.empty()) return json;
  Json ranges = Json::array();
  for (const Range& range : file.structure.ranges) ranges.push_back({range.begin, range.end});
  json["structure"] = {{"ranges", ranges}, {kSum, to_hex(file.structure.xxh3_64)}};
  return json;
}

ManifestFile parse_manifest_file(const Json& json) {
  ManifestFile file{json.at("name").get<std::string>(), json.at("bytes").get<int64_t>(),
                    parse_hex(json.at(kSum))};
  if (!json.contains("structure")) return file;
  const Json& structure = json.at("structure");
  file.structure.xxh3_64 = parse_hex(structure.at(kSum));
  for (const Json& range : structure.at("ranges")) {
    file.structure.ranges.push_back({range.at(0).get<int64_t>(), range.at(1).get<int64_t>()});
    const auto& [begin, end] = file.structure.ranges.back();
    ARCHON_VALIDATE(0 <= begin && begin <= end && end <= file.bytes,
                    "{}: {} to {} are no bytes of {}", kManifestName, begin, end, file.name);
  }
  return file;
}

void check_structure(const std::string& path, const ManifestFile& listed) {
  const bool whole = listed.structure.ranges.empty();
  ARCHON_VALIDATE(
      sum_of_structure(path, listed) == (whole ? listed.xxh3_64 : listed.structure.xxh3_64),
      "{} is damaged: {} fit the checksum in {}", path,
      whole ? "it does not" : "the structures of HDF5 in it do not", kManifestName);
}

Manifest read_manifest(const std::string& folder) {
  const std::string path = folder + "/" + kManifestName;
  try {
    return parse(read_json_file(path), path);
  } catch (const Json::exception& error) {
    throw InputError(fmt::format("{} is damaged: {}", path, error.what()));
  }
}

Manifest read_complete_manifest(const std::string& folder) {
  Manifest manifest = read_manifest(folder);
  for (const ManifestFile& file : manifest.files) {
    const std::string path = folder + "/" + file.name;
    std::error_code error;
    const auto bytes = std::filesystem::file_size(path, error);
    ARCHON_VALIDATE(!error, "{} cannot be read: {}", path, error.message());
    ARCHON_VALIDATE(bytes == static_cast<std::uintmax_t>(file.bytes),
                    "{} has {} bytes, where {} lists {}", path, bytes, kManifestName, file.bytes);
  }
  return manifest;
}

void write_manifest(const std::string& folder, const Manifest& manifest) {
  Json json = {{"schema", kSchema},
               {"schema_version", kSchemaVersion},
               {"archon_version", version()},
               {"step", manifest.step},
               {"files", Json::array()}};
  for (const ManifestFile& file : manifest.files) json["files"].push_back(to_json(file));
  json[kSum] = own_sum(json);
  write_text_file(folder + "/" + kManifestName, json.dump(1) + "\n");
}

}  // namespace archon
