#include "archon/base/memory.hpp"

#include <malloc.h>

namespace archon {

void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);         // no allocation has a mapping of its own
  mallopt(M_TRIM_THRESHOLD, -1);  // the heap's end is not given back
  mallopt(M_ARENA_MAX, 1);        // all threads share one heap: other arenas cannot hold as much
#endif
}

}  // namespace archon
