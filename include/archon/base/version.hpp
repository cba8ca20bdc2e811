#pragma once

namespace archon {

/// Version of libarchon, "major.minor.patch".
const char* version();

}  // namespace archon
