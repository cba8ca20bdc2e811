#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "archon/model/config.hpp"

namespace archon {

/// Keys and values of one sequence's tokens in every layer, this tp rank's heads of them: what lets
/// a model go on with a sequence without computing its beginning again.
///
/// They lie in blocks of 64 tokens that are added as the sequence grows, in the form in which the
/// attention kernels of this processor multiply them. A block that is full never changes, so forks
/// share it: the prompt of a group of samples is held once.
class KeyValueCache {
 public:
  KeyValueCache(const DecoderConfig& config, int tp_size, at::ScalarType dtype);
  KeyValueCache(KeyValueCache&&) = default;
  KeyValueCache& operator=(KeyValueCache&&) = default;

  /// A cache that begins with the same tokens and goes on by itself.
  KeyValueCache fork() const;
  /// Tokens it holds.
  int64_t length() const { return length_; }
  /// Counts in so many more tokens, whose keys and values each layer's attention is about to store.
  void extend(int64_t tokens);

  int64_t kv_heads() const { return kv_heads_; }
  /// Where the blocks are, and where a layer's key/value head begins in each, in floats.
  const std::vector<float*>& blocks() const { return data_; }
  int64_t head_offset(int64_t layer, int64_t kv_head) const {
    return (layer * kv_heads_ + kv_head) * head_floats_;
  }

 private:
  KeyValueCache(const KeyValueCache&) = default;
  void add_block(const at::Tensor& block);

  int64_t layers_, kv_heads_, head_floats_, length_ = 0;
  std::vector<at::Tensor> blocks_;  // float32 [layers · kv_heads · head_floats_]
  std::vector<float*> data_;        // of blocks_
};

}  // namespace archon
