#include "archon/base/memory.hpp"

#include <malloc.h>

#include <fstream>
#include <string>

namespace archon {
namespace {

/// An entry of /proc/self/status, which counts in KiB.
int64_t status_bytes(const std::string& entry) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(entry)) return std::stoll(line.substr(entry.size())) * 1024;
  return 0;
}

}  // namespace

void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);         // no allocation has a mapping of its own
  mallopt(M_TRIM_THRESHOLD, -1);  // the heap's end is not given back
  mallopt(M_ARENA_MAX, 1);        // all threads share one heap: other arenas cannot hold as much
#endif
}

int64_t resident_memory_bytes() { return status_bytes("VmRSS:"); }

int64_t peak_memory_bytes() { return status_bytes("VmHWM:"); }

}  // namespace archon
