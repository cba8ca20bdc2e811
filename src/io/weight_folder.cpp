#include <filesystem>

#include "archon/base/error.hpp"
#include "archon/io/json.hpp"
#include "archon/io/safetensors.hpp"
#include "safetensors_types.hpp"

namespace archon {
namespace fs = std::filesystem;
namespace {

/// tensor -> file, as the index says it.
std::map<std::string, std::string> read_index(const std::string& path) {
  const Json index = read_json_file(path);
  const bool has_map = index.is_object() && index.contains("weight_map");
  ARCHON_VALIDATE(has_map && index["weight_map"].is_object(),
                  "{} is not an index of weights: it has no object \"weight_map\"", path);
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    ARCHON_VALIDATE(file.is_string(), "{}: the file of {} is not a string", path, tensor);
    const auto& name = file.get_ref<const std::string&>();
    const bool plain = !name.empty() && name != "." && name != ".." &&
                       name.find_first_of(std::string_view("/\0", 2)) == name.npos;
    ARCHON_VALIDATE(plain,
                    "{}: {} should be in \"{}\", which is not the name of a file in the "
                    "same folder",
                    path, tensor, name);
    files.emplace(tensor, name);
  }
  return files;
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

}  // namespace

WeightFolder::WeightFolder(const std::string& folder) : folder_(folder) {
  const fs::path single = fs::path(folder) / kWeightsFile;
  const fs::path index = fs::path(folder) / kWeightsIndex;
  std::map<std::string, std::string> listed;
  std::map<std::string, std::size_t> opened;
  const auto open = [&](const std::string& name) {
    const auto [position, is_new] = opened.try_emplace(name, files_.size());
    if (is_new) files_.emplace_back((fs::path(folder) / name).string());
    return position->second;
  };

  if (is_there(single)) {  // as transformers: one whole file goes before an index
    open(kWeightsFile);
  } else {
    ARCHON_VALIDATE(is_there(index),
                    "{} holds no weights: there is neither {} nor {}; name a HuggingFace folder "
                    "with safetensors weights",
                    folder, kWeightsFile, kWeightsIndex);
    listed = read_index(index.string());
  }
  for (const auto& [tensor, name] : listed) {
    const std::size_t file = open(name);
    ARCHON_VALIDATE(files_[file].entries().contains(tensor),
                    "{} says that {} is in {}, which does "
                    "not hold it",
                    index.string(), tensor, name);
    where_.emplace(tensor, file);
  }
  // What the files hold beyond the index is offered too, so that its user can name it.
  for (std::size_t file = 0; file < files_.size(); ++file)
    for (const auto& [tensor, entry] : files_[file].entries()) where_.emplace(tensor, file);
}

std::vector<std::string> WeightFolder::names() const {
  std::vector<std::string> all;
  for (const auto& [name, file] : where_) all.push_back(name);
  return all;
}

const SafetensorsEntry& WeightFolder::entry(const std::string& name) const {
  const auto found = where_.find(name);
  ARCHON_VALIDATE(found != where_.end(), "the weights in {} have no tensor {}", folder_, name);
  return files_[found->second].entries().at(name);
}

at::Tensor WeightFolder::view(const std::string& name) const {
  const auto found = where_.find(name);
  ARCHON_VALIDATE(found != where_.end(), "the weights in {} have no tensor {}", folder_, name);
  return files_[found->second].view(name);
}

}  // namespace archon
