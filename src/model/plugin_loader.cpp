#include "archon/model/plugin_loader.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "archon/base/dynamic_library.hpp"
#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/io/files.hpp"
#include "plugin_descriptor.hpp"

namespace archon {
namespace {

namespace fs = std::filesystem;

/// What this process has loaded; `file` is canonical.
std::vector<LoadedPlugin>& loaded() {
  static std::vector<LoadedPlugin> plugins;
  return plugins;
}

const LoadedPlugin* find_loaded(const std::string LoadedPlugin::*field, const std::string& value) {
  const auto found = std::find_if(loaded().begin(), loaded().end(),
                                  [&](const LoadedPlugin& p) { return p.*field == value; });
  return found == loaded().end() ? nullptr : &*found;
}

std::string canonical(const std::string& file) {
  std::error_code error;
  const fs::path path = fs::canonical(file, error);
  ARCHON_VALIDATE(!error, "cannot find the plugin {}: {}; check the path", file, error.message());
  return path.string();
}

template <std::size_t N>
std::string text(const char (&field)[N]) {
  return {field, std::find(field, field + N, '\0')};
}

LoadedPlugin inspect(const std::string& file) {
  const PluginDescriptor descriptor = read_plugin_descriptor(file);
  return {file, text(descriptor.name), text(descriptor.version)};
}

#define ARCHON_DETAIL_REGISTER_NAME ARCHON_DETAIL_TEXT(ARCHON_PLUGIN_REGISTER)

void open_and_register(const LoadedPlugin& plugin) {
  const DynamicLibrary library = DynamicLibrary::open(plugin.file);
  void* address = library.symbol(ARCHON_DETAIL_REGISTER_NAME);
  ARCHON_VALIDATE(address != nullptr,
                  "plugin {} lacks the function {}, which registers what it brings; build it "
                  "with ARCHON_PLUGIN",
                  plugin.file, ARCHON_DETAIL_REGISTER_NAME);
  reinterpret_cast<void (*)(const PluginRegistry&)>(address)(PluginRegistry(plugin.file));
  loaded().push_back(plugin);
}

/// Every *.so of a folder, in the order of their names.
std::vector<std::string> shared_objects(const fs::path& folder) {
  std::vector<std::string> files;
  for (const std::string& name : list_folder(folder.string()))
    if (name.ends_with(".so")) files.push_back((folder / name).string());
  std::sort(files.begin(), files.end());
  return files;
}

/// The first plugin of a name wins: an earlier folder replaces what a later one offers.
void load_folder(const fs::path& folder) {
  for (const std::string& found : shared_objects(folder)) {
    const LoadedPlugin plugin = inspect(canonical(found));
    const LoadedPlugin* earlier = find_loaded(&LoadedPlugin::name, plugin.name);
    if (earlier == nullptr) {
      open_and_register(plugin);
    } else if (earlier->file != plugin.file) {
      log::debug("plugin {} is skipped: {} of the same name was found before it", plugin.file,
                 earlier->file);
    }
  }
}

void load_path_variable(const std::string& path) {
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find(':', begin), path.size());
    const std::string folder = path.substr(begin, end - begin);
    begin = end + 1;
    if (folder.empty()) continue;
    std::error_code ignored;
    ARCHON_VALIDATE(fs::is_directory(folder, ignored),
                    "ARCHON_PLUGIN_PATH names {}, which is not a folder; correct the variable",
                    folder);
    load_folder(folder);
  }
}

}  // namespace

void PluginRegistry::add(ModelSpec spec) const {
  spec.plugin = file_;
  ModelRegistry::instance().add(std::move(spec));
}

void PluginRegistry::add_reward(std::string name,
                                std::function<std::unique_ptr<RewardFunction>()> make) const {
  RewardRegistry::instance().add({std::move(name), std::move(make), file_});
}

LoadedPlugin load_plugin(const std::string& file) {
  const std::string path = canonical(file);
  if (const LoadedPlugin* known = find_loaded(&LoadedPlugin::file, path)) return *known;
  const LoadedPlugin plugin = inspect(path);
  if (const LoadedPlugin* other = find_loaded(&LoadedPlugin::name, plugin.name)) {
    throw InputError(fmt::format(
        "plugin {} has the name \"{}\", but so has {}, which is loaded; name only one of them",
        plugin.file, plugin.name, other->file));
  }
  open_and_register(plugin);
  return plugin;
}

std::vector<LoadedPlugin> load_plugins(const std::vector<std::string>& explicit_files) {
  for (const std::string& file : explicit_files) load_plugin(file);
  if (const char* path = std::getenv("ARCHON_PLUGIN_PATH")) load_path_variable(path);
  // Installed or in the build tree, the folder lies beside libarchon.
  const fs::path beside = fs::path(core_library_path()).parent_path() / "archon" / "plugins";
  std::error_code ignored;
  if (fs::is_directory(beside, ignored)) load_folder(beside);
  return loaded();
}

}  // namespace archon
