#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "archon/comm/communicator.hpp"
#include "archon/parallel/ulysses_heads.hpp"

/// Ulysses context parallelism (Jacobs et al. 2023, arXiv:2309.14509): outside attention each cp
/// rank holds a contiguous slice of the tokens and all heads; inside it, all tokens and a slice of
/// the heads. `cp` must outlive the backward pass.
namespace archon {

/// qkv [tokens/cp, heads + 2·kv_heads, head_dim] (queries, keys, values) to
/// [tokens, block, head_dim]: one copy into blocks, one all-to-all. The gradient of a key/value
/// head that went to several ranks is summed.
at::Tensor ulysses_scatter_heads(const at::Tensor& qkv, const UlyssesHeads& layout,
                                 const Communicator& cp);

/// Attention output [tokens, heads/cp, head_dim] to [tokens/cp, heads, head_dim]: one all-to-all,
/// one copy.
at::Tensor ulysses_gather_heads(const at::Tensor& out, const Communicator& cp);

}  // namespace archon
