#pragma once

#include <string>
#include <vector>

namespace archon {

struct LoadedPlugin {
  std::string file;
  std::string name;
  std::string version;
};

/// Loads one plugin: reads and checks the descriptor inside the file before opening it, then
/// dlopen(RTLD_NOW | RTLD_LOCAL), calls its register function, never closes. A file that is not
/// an ELF shared object, holds no descriptor, was built for another ABI or LibTorch (both
/// versions are said), lacks the register function or has undefined symbols is an InputError.
/// Loading a file again does nothing.
LoadedPlugin load_plugin(const std::string& file);

/// Loads the files named by --plugin, then every *.so of the folders of ARCHON_PLUGIN_PATH
/// (colon-separated), then those of the folder archon/plugins beside libarchon itself, installed
/// or in the build tree. Of several plugins with one name in these folders the first is taken.
/// Returns all that are loaded.
std::vector<LoadedPlugin> load_plugins(const std::vector<std::string>& explicit_files);

}  // namespace archon
