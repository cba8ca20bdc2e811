#include "archon/base/intern.hpp"

#include <mutex>
#include <set>

namespace archon {

const char* intern(const std::string& text) {
  static std::mutex mutex;
  static auto* const texts = new std::set<std::string>;  // never destroyed
  const std::lock_guard lock(mutex);
  return texts->insert(text).first->c_str();
}

}  // namespace archon
