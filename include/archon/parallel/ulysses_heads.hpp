#pragma once

#include <cstdint>

#include "archon/base/host_device.hpp"

namespace archon {

/// Which heads a cp rank gets, out of the `heads` query and `kv_heads` key/value heads of its tp
/// rank. Where cp exceeds kv_heads, each key/value head goes to cp / kv_heads ranks.
///
/// A token's heads lie as [queries, keys, values] in the whole projection, and so do a rank's own
/// in its block; a *slot* is the place of a head in a block.
struct UlyssesHeads {
  int64_t heads;
  int64_t kv_heads;
  int cp;

  ARCHON_HOST_DEVICE int64_t heads_per_rank() const { return heads / cp; }
  ARCHON_HOST_DEVICE int64_t kv_heads_per_rank() const {
    return kv_heads >= cp ? kv_heads / cp : 1;
  }
  ARCHON_HOST_DEVICE int64_t first_head(int rank) const { return rank * heads_per_rank(); }
  ARCHON_HOST_DEVICE int64_t first_kv_head(int rank) const { return rank * kv_heads / cp; }
  /// Heads in one rank's block: queries, keys, values.
  ARCHON_HOST_DEVICE int64_t block() const { return heads_per_rank() + 2 * kv_heads_per_rank(); }
  /// Heads in the whole projection: queries, keys, values.
  ARCHON_HOST_DEVICE int64_t whole() const { return heads + 2 * kv_heads; }
  /// Ranks that hold a key/value head.
  ARCHON_HOST_DEVICE int copies() const {
    return kv_heads >= cp ? 1 : cp / static_cast<int>(kv_heads);
  }

  /// Which head of the whole projection the block of `rank` holds in `slot`.
  ARCHON_HOST_DEVICE int64_t head_in_slot(int rank, int64_t slot) const {
    const int64_t q = heads_per_rank(), kv = kv_heads_per_rank();
    if (slot < q) return first_head(rank) + slot;
    const int64_t part = (slot - q) / kv;  // 0 = keys, 1 = values
    return heads + part * kv_heads + first_kv_head(rank) + (slot - q) % kv;
  }

  /// Where a head of the whole projection is: in `slot` of the blocks of `ranks` ranks from `first`
  /// on.
  struct Place {
    int first, ranks;
    int64_t slot;
  };
  ARCHON_HOST_DEVICE Place place_of(int64_t head) const {
    const int64_t q = heads_per_rank(), kv = kv_heads_per_rank();
    if (head < heads) return {static_cast<int>(head / q), 1, head % q};
    const int64_t part = (head - heads) / kv_heads, kv_head = (head - heads) % kv_heads;
    const int first = static_cast<int>(kv_heads >= cp ? kv_head / kv : kv_head * copies());
    return {first, copies(), q + part * kv + kv_head % kv};
  }
};

}  // namespace archon
