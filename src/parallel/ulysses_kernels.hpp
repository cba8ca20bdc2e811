#pragma once

#include <ATen/core/Tensor.h>

#include "archon/parallel/ulysses_heads.hpp"

/// The re-layouts of Ulysses on a GPU, on its current stream. `travelling` and `own` are stacks of
/// blocks [cp, ...], one block for each rank: that of this rank, `rank`, is used in `own` alone.
namespace archon::ulysses {

/// qkv [tokens, heads + 2·kv_heads, d] to blocks [cp, tokens, block, d].
void pack_heads(const at::Tensor& qkv, const UlyssesHeads& layout, const at::Tensor& travelling,
                const at::Tensor& own, int rank);
/// The adjoint of pack_heads: copies in several blocks are summed in rank order, in float32.
void unpack_heads(const at::Tensor& qkv, const UlyssesHeads& layout, const at::Tensor& travelling,
                  const at::Tensor& own, int rank);
/// rows [tokens, cp·n] to blocks [cp, tokens, n], and back.
void pack_rows(const at::Tensor& rows, const at::Tensor& travelling, const at::Tensor& own,
               int rank);
void unpack_rows(const at::Tensor& rows, const at::Tensor& travelling, const at::Tensor& own,
                 int rank);

}  // namespace archon::ulysses
