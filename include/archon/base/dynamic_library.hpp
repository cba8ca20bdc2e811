#pragma once

#include <string>

namespace archon {

/// A shared object that was opened and stays open for good: what it registered may still be
/// called by static destructors.
class DynamicLibrary {
 public:
  /// Binds every symbol at once and shows none to later libraries (RTLD_NOW | RTLD_LOCAL).
  /// InputError with the system's own reason, undefined symbols among them.
  static DynamicLibrary open(const std::string& path);

  /// Address of a symbol; nullptr when there is none of that name.
  void* symbol(const std::string& name) const;

 private:
  explicit DynamicLibrary(void* handle) : handle_(handle) {}
  void* handle_;
};

/// Canonical path of the shared object that holds Archon's core (libarchon).
std::string core_library_path();

}  // namespace archon
