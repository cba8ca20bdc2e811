#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "archon/comm/communicator.hpp"

/// Log-probabilities of a vocabulary-parallel head, computed in chunks of tokens: a whole
/// [tokens, vocabulary] tensor of logits is never held. Arithmetic behind the logits is float32.
///
/// The tp ranks hold one loss together: each computes the same log-probabilities, and the
/// gradient with respect to `hidden` is this rank's part of a sum over tp.
///
/// hidden and the head are on one device, labels and weights in host memory.
namespace archon {

/// This tp rank's rows of the head: even_range(vocab_size, tp).
struct VocabParallelHead {
  at::Tensor weight;  ///< [vocab rows of this rank, hidden_size]
  int64_t vocab_size;
  const Communicator& tp;
  double temperature = 1.0;  ///< logits are divided by it
};

struct LogProbs {
  at::Tensor log_probs;  ///< float32 [tokens], where hidden is; 0 where the label is negative
  at::Tensor entropy;    ///< float32 [tokens] of the whole distribution; 0 where the label is
                         ///< negative; only if asked for
};

/// log softmax(hidden · headᵀ / temperature)[label] for hidden [tokens, hidden_size] and labels
/// int64 [tokens] (negative: none; such tokens cost nothing). Both results are differentiable in
/// hidden and weight; backward recomputes the logits of each chunk.
LogProbs vocab_parallel_log_probs(const at::Tensor& hidden, const VocabParallelHead& head,
                                  const at::Tensor& labels, bool with_entropy = false);

/// Σ weights[t] · (−log p[t]), as float64 [1] in host memory. Because the weights are known in
/// advance, the gradients are computed in the forward pass, with no recomputation; tokens of weight
/// 0 cost nothing. weights float32 [tokens], without gradient.
at::Tensor linear_cross_entropy(const at::Tensor& hidden, const VocabParallelHead& head,
                                const at::Tensor& labels, const at::Tensor& weights);

/// This rank's logits [tokens, vocab rows], float32, of a chunk that the caller keeps small.
at::Tensor local_logits(const at::Tensor& hidden, const VocabParallelHead& head);

/// Tokens per chunk, at most 1024 and at least 16: as many as the head is wide, so that the logits
/// [tokens, vocabulary] take no more memory than the head's weight [vocabulary, hidden_size], and
/// are still many enough for its gradient's product to cost more than adding that up.
int64_t logit_chunk_tokens(int64_t hidden_size);

}  // namespace archon
