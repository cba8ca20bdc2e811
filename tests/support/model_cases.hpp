#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "archon/base/error.hpp"
#include "archon/model/plugin_loader.hpp"
#include "archon/model/registry.hpp"
#include "support/meshes.hpp"

namespace archon::test {

/// Folder of a golden case, with model/, batch.h5 and golden.h5.
inline std::string golden_folder(const std::string& name) {
  return std::string(std::getenv("ARCHON_TEST_SOURCE_DIR")) + "/tests/golden/" + name;
}

/// Where tests leave files for other tests (CTest fixtures).
inline std::string work_folder(const std::string& name) {
  const std::string folder = std::string(std::getenv("ARCHON_TEST_BINARY_DIR")) + "/tests/" + name;
  std::filesystem::create_directories(folder);
  return folder;
}

inline bool head_rules_allow(const std::string& model, const MeshShape& shape) {
  const HfConfig hf = HfConfig::read(model);
  const DecoderConfig config = ModelRegistry::instance().find(hf.model_type()).parse_config(hf);
  try {
    validate_tp_heads(config, shape.tp);
    validate_cp_heads(config, shape.cp, shape.tp);
    return true;
  } catch (const InputError&) {
    return false;
  }
}

/// Every mesh of `ranks` ranks that the model's heads allow.
inline std::vector<MeshShape> meshes_for(const std::string& model, int ranks) {
  std::vector<MeshShape> allowed;
  for (const MeshShape& shape : all_meshes(ranks))
    if (head_rules_allow(model, shape)) allowed.push_back(shape);
  return allowed;
}

/// A global fixture that makes the built plugins known.
struct LoadedPlugins {
  LoadedPlugins() { load_plugins({}); }
};

}  // namespace archon::test
