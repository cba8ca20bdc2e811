#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <vector>

/// Causal attention of one head in one sequence, tile by tile, so that scores never leave the
/// cache (Dao et al. 2022, arXiv:2205.14135). T is float or BFloat16. Products of BFloat16
/// operands are summed in float, everything else is float; where the processor multiplies pairs of
/// bfloat16, softmax weights and the gradients of the scores are rounded to T before they are
/// multiplied. Callers share heads and blocks out over threads.
namespace archon::kernels {

/// Queries and keys are walked in blocks of so many tokens.
inline constexpr int64_t kAttentionBlock = 64;

inline int64_t attention_blocks(int64_t length) {
  return (length + kAttentionBlock - 1) / kAttentionBlock;
}

/// Rows of floats are padded to a multiple of the widest vector.
inline int64_t attention_padded_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

/// Floats of scratch space, aligned to 64 bytes, that each call needs for itself.
int64_t attention_scratch(int64_t head_dim);

/// One query head and its key/value head: row t of each is at t · stride.
template <class T>
struct AttentionHead {
  const T *query, *key, *value;
  int64_t stride, length, head_dim;
};

/// What the backward pass reads and writes besides the head's own rows.
template <class T>
struct AttentionGradients {
  const T *out, *out_grad;  ///< row t at t · out_stride
  int64_t out_stride;
  const float* log_sum_exp;
  T* query_grad;  ///< row t at t · the head's stride
  /// [attention_blocks · kAttentionBlock, attention_padded_dim], rows and columns beyond length and
  /// head_dim are padding.
  float *key_grad, *value_grad;
};

/// A token's query heads that share a key/value head, and the tokens they see, in cache blocks of
/// kAttentionBlock tokens; the last may hold more than they see.
template <class T>
struct CachedAttention {
  const T* query;         ///< [heads, head_dim]
  int64_t heads, head_dim;
  float* const* blocks;
  int64_t offset;         ///< where the key/value head begins in each block, in floats
  int64_t length;         ///< tokens seen
  T* out;                 ///< [heads, head_dim]
};

/// Floats of scratch space that `attend` needs.
int64_t cached_attention_scratch(int64_t head_dim, int64_t length);

template <class T>
struct AttentionKernels {
  const char* name;  ///< of the instruction set
  /// Output rows of query block `block`, at t · out_stride, and their log-sum-exp [length] (of the
  /// scaled scores, to base 2).
  void (*forward)(const AttentionHead<T>& head, int64_t block, T* out, int64_t out_stride,
                  float* log_sum_exp, float* scratch);
  void (*backward)(const AttentionHead<T>& head, const AttentionGradients<T>& gradients,
                   float* scratch);
  /// Floats that a key/value head takes in a cache block.
  int64_t (*cache_head_floats)(int64_t head_dim);
  /// Stores a token's key and value [head_dim] at `place` of a head's cache block. Tokens come one
  /// after the other.
  void (*append)(float* head, int64_t place, const T* key, const T* value, int64_t head_dim);
  void (*attend)(const CachedAttention<T>& task, float* scratch);
};

/// Those that this processor can run, the fastest first.
template <class T>
std::vector<AttentionKernels<T>> attention_variants();

/// The fastest.
template <class T>
const AttentionKernels<T>& attention_kernels();

}  // namespace archon::kernels
