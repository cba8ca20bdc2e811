#pragma once

namespace archon {

/// Makes malloc keep what is freed, for the life of the process. A training step frees and
/// allocates the same large tensors again and again; by default each of them goes back to the
/// system and comes back as untouched pages, one fault every 4 KiB. Call before the first tensor.
void keep_freed_memory();

}  // namespace archon
