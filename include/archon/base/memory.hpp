#pragma once

#include <cstdint>

namespace archon {

/// Makes malloc keep what is freed, for the life of the process. A training step frees and
/// allocates the same large tensors again and again; by default each of them goes back to the
/// system and comes back as untouched pages, one fault every 4 KiB. Call before the first tensor.
void keep_freed_memory();

/// Bytes of this process that are in memory now, and the most there ever were; 0 where the system
/// does not say.
int64_t resident_memory_bytes();
int64_t peak_memory_bytes();

}  // namespace archon
