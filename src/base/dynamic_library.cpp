// All dl* calls of Archon.
#include "archon/base/dynamic_library.hpp"

#include <dlfcn.h>

#include <filesystem>

#include "archon/base/error.hpp"

namespace archon {

DynamicLibrary DynamicLibrary::open(const std::string& path) {
  // A name without a slash would be looked for in the system's library folders.
  void* handle = dlopen(std::filesystem::absolute(path).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = dlerror();
    throw InputError(fmt::format(
        "cannot open the shared object {}: {}; build it again with this Archon and LibTorch", path,
        reason != nullptr ? reason : "no reason given"));
  }
  return DynamicLibrary(handle);
}

void* DynamicLibrary::symbol(const std::string& name) const { return dlsym(handle_, name.c_str()); }

std::string core_library_path() {
  Dl_info info{};
  ARCHON_ENSURE(dladdr(reinterpret_cast<const void*>(&core_library_path), &info) != 0,
                "the system does not say where libarchon lies");
  return std::filesystem::canonical(info.dli_fname).string();
}

}  // namespace archon
