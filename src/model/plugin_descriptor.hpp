#pragma once

#include <string>

#include "archon/model/plugin.hpp"

namespace archon {

/// Reads the descriptor out of a plugin file, without opening it as a library, and checks it
/// against this Archon. InputError when the file is no ELF64 shared object, has no descriptor, or
/// was built for another plugin ABI, LibTorch or compiler ABI.
PluginDescriptor read_plugin_descriptor(const std::string& file);

}  // namespace archon
