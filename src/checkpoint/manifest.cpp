#include "manifest.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
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
  for (const Json& file : json.at("files"))
    manifest.files.push_back(
        {file.at("name").get<std::string>(), file.at("bytes").get<int64_t>(),
         std::strtoull(file.at(kSum).get<std::string>().c_str(), nullptr, 16)});
  return manifest;
}

}  // namespace

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
  for (const ManifestFile& file : manifest.files)
    json["files"].push_back(
        {{"name", file.name}, {"bytes", file.bytes}, {kSum, to_hex(file.xxh3_64)}});
  json[kSum] = own_sum(json);
  write_text_file(folder + "/" + kManifestName, json.dump(1) + "\n");
}

}  // namespace archon
