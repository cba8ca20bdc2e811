#pragma once

#include <string>

namespace archon::test {

inline bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace archon::test
