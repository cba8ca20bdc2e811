#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "archon/comm/communicator.hpp"

/// Ulysses context parallelism (Jacobs et al. 2023, arXiv:2309.14509): outside attention each cp
/// rank holds a contiguous slice of the tokens and all heads; inside it, all tokens and a slice of
/// the heads. `cp` must outlive the backward pass.
namespace archon {

/// Which heads a cp rank gets, out of the `heads` query and `kv_heads` key/value heads of its tp
/// rank. Where cp exceeds kv_heads, each key/value head goes to cp / kv_heads ranks.
struct UlyssesHeads {
  int64_t heads;
  int64_t kv_heads;
  int cp;

  int64_t heads_per_rank() const { return heads / cp; }
  int64_t kv_heads_per_rank() const { return kv_heads >= cp ? kv_heads / cp : 1; }
  int64_t first_head(int rank) const { return rank * heads_per_rank(); }
  int64_t first_kv_head(int rank) const { return rank * kv_heads / cp; }
  /// Heads in one rank's block: queries, keys, values.
  int64_t block() const { return heads_per_rank() + 2 * kv_heads_per_rank(); }
};

/// qkv [tokens/cp, heads + 2·kv_heads, head_dim] (queries, keys, values) to
/// [tokens, block, head_dim]: one copy into blocks, one all-to-all. The gradient of a key/value
/// head that went to several ranks is summed.
at::Tensor ulysses_scatter_heads(const at::Tensor& qkv, const UlyssesHeads& layout,
                                 const Communicator& cp);

/// Attention output [tokens, heads/cp, head_dim] to [tokens/cp, heads, head_dim]: one all-to-all,
/// one copy.
at::Tensor ulysses_gather_heads(const at::Tensor& out, const Communicator& cp);

}  // namespace archon
