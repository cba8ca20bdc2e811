#include "archon/model/key_value_cache.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>

#include "archon/base/error.hpp"
#include "archon/model/ops.hpp"
#include "archon/parallel/dispatch.hpp"
#include "archon/parallel/tasks.hpp"
#include "attention_kernels.hpp"

namespace archon {
namespace {

using kernels::kAttentionBlock;

int64_t cache_head_floats(at::ScalarType dtype, int64_t head_dim) {
  return dtype == at::kBFloat16
             ? kernels::attention_kernels<c10::BFloat16>().cache_head_floats(head_dim)
             : kernels::attention_kernels<float>().cache_head_floats(head_dim);
}

/// A packed stream of which each sequence goes on from a cache.
struct CachedStream {
  const at::Tensor& qkv;  // [tokens, heads + 2·kv_heads, head_dim]
  const std::vector<int64_t>& cu_seqlens;
  const std::vector<KeyValueCache*>& caches;
  int64_t layer, heads;

  int64_t kv_heads() const { return (qkv.size(1) - heads) / 2; }
  int64_t sequences() const { return static_cast<int64_t>(caches.size()); }
  /// Tokens that were in the cache before.
  int64_t before(int64_t sequence) const {
    return caches[sequence]->length() - (cu_seqlens[sequence + 1] - cu_seqlens[sequence]);
  }
  template <class T>
  const T* row(int64_t token, int64_t head) const {
    return qkv.const_data_ptr<T>() + token * qkv.stride(0) + head * qkv.size(2);
  }
};

template <class T>
void store(const CachedStream& stream) {
  const auto& kernels = kernels::attention_kernels<T>();
  const int64_t kv_heads = stream.kv_heads(), d = stream.qkv.size(2);
  run_tasks(stream.sequences() * kv_heads, 0, [&](int64_t task, float*) {
    const int64_t sequence = task / kv_heads, head = task % kv_heads;
    const KeyValueCache& cache = *stream.caches[sequence];
    const int64_t offset = cache.head_offset(stream.layer, head);
    int64_t place = stream.before(sequence);
    for (int64_t t = stream.cu_seqlens[sequence]; t < stream.cu_seqlens[sequence + 1]; ++t, ++place)
      kernels.append(cache.blocks()[place / kAttentionBlock] + offset, place % kAttentionBlock,
                     stream.row<T>(t, stream.heads + head),
                     stream.row<T>(t, stream.heads + kv_heads + head), d);
  });
}

template <class T>
void attend(const at::Tensor& out, const CachedStream& stream) {
  const auto& kernels = kernels::attention_kernels<T>();
  const int64_t kv_heads = stream.kv_heads(), d = stream.qkv.size(2);
  int64_t longest = 0;
  for (const KeyValueCache* cache : stream.caches) longest = std::max(longest, cache->length());
  run_tasks(stream.sequences() * kv_heads, kernels::cached_attention_scratch(d, longest),
            [&](int64_t task, float* scratch) {
              const int64_t sequence = task / kv_heads, group = stream.heads / kv_heads;
              const int64_t kv_head = task % kv_heads, head = kv_head * group;
              const KeyValueCache& cache = *stream.caches[sequence];
              int64_t seen = stream.before(sequence);
              for (int64_t t = stream.cu_seqlens[sequence]; t < stream.cu_seqlens[sequence + 1];
                   ++t)
                kernels.attend({stream.row<T>(t, head), group, d, cache.blocks().data(),
                                cache.head_offset(stream.layer, kv_head), ++seen,
                                out.data_ptr<T>() + t * out.stride(0) + head * d},
                               scratch);
            });
}

}  // namespace

KeyValueCache::KeyValueCache(const DecoderConfig& config, int tp_size, at::ScalarType dtype)
    : layers_(config.num_layers),
      kv_heads_(config.num_kv_heads / tp_size),
      head_floats_(cache_head_floats(dtype, config.head_dim)) {}

void KeyValueCache::add_block(const at::Tensor& block) {
  blocks_.push_back(block);
  data_.push_back(block.data_ptr<float>());
}

KeyValueCache KeyValueCache::fork() const {
  KeyValueCache other = *this;
  if (length_ % kAttentionBlock == 0) return other;
  other.blocks_.pop_back();
  other.data_.pop_back();
  other.add_block(blocks_.back().clone());
  return other;
}

void KeyValueCache::extend(int64_t tokens) {
  length_ += tokens;
  while (static_cast<int64_t>(blocks_.size()) < kernels::attention_blocks(length_))
    add_block(at::empty({layers_ * kv_heads_ * head_floats_}, at::kFloat));
}

at::Tensor cached_attention(const at::Tensor& qkv, const std::vector<int64_t>& cu_seqlens,
                            int64_t heads, const std::vector<KeyValueCache*>& caches,
                            int64_t layer) {
  ARCHON_EXPECT(caches.size() + 1 == cu_seqlens.size() && qkv.is_contiguous());
  const CachedStream stream{qkv, cu_seqlens, caches, layer, heads};
  bool all_begin = true;
  for (int64_t i = 0; i < stream.sequences(); ++i) {
    ARCHON_EXPECT(caches[i]->kv_heads() == stream.kv_heads());
    all_begin = all_begin && stream.before(i) == 0;
  }
  const at::Tensor out = all_begin ? packed_attention(qkv, cu_seqlens, heads, stream.kv_heads())
                                   : at::empty({qkv.size(0), heads, qkv.size(2)}, qkv.options());
  dispatch(qkv, [&]<class T>(T*) {
    store<T>(stream);
    if (!all_begin) attend<T>(out, stream);
  });
  // Padding.
  out.narrow(0, cu_seqlens.back(), out.size(0) - cu_seqlens.back()).zero_();
  return out;
}

}  // namespace archon
