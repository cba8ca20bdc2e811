#pragma once

#include <string>

namespace archon {

/// A copy of `text` that lives as long as the process: for what a watchdog may print at any time.
const char* intern(const std::string& text);

}  // namespace archon
