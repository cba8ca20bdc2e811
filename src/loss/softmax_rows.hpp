#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

/// The passes over a chunk's logits [tokens, width], those of a tp rank: on the CPU or on a GPU. A
/// token's statistics are the four floats of SoftmaxStats. labels int64 [tokens]; negative: none.
namespace archon::softmax_rows {

inline constexpr int64_t kStatsWidth = 4;

/// Where the rows lie in the vocabulary, and what logits are multiplied with.
struct Place {
  int64_t first_row;
  float scale;
};

/// float32 [tokens, 4]
at::Tensor statistics(const at::Tensor& logits, const at::Tensor& labels, const Place& place);

/// Of the whole vocabulary, from those of each rank [ranks, tokens, 4]; `scale`: that of Place.
at::Tensor merged(const at::Tensor& of_ranks, float scale);

/// float32 [tokens], of merged statistics.
at::Tensor log_probs(const at::Tensor& whole, float scale);
at::Tensor entropies(const at::Tensor& whole);

/// Replaces logits by d(Σ grad·log p + entropy_grad·H)/d logits, with H the entropy. grad and
/// entropy_grad (may be undefined) float32 [tokens]; grad counts where there is a label.
void differentiate(const at::Tensor& logits, const at::Tensor& labels, const Place& place,
                   const at::Tensor& grad, const at::Tensor& entropy_grad, const at::Tensor& whole);

}  // namespace archon::softmax_rows
