#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "archon/data/dataset.hpp"

namespace archon {

/// Sequences laid end to end and padded: what one dp rank computes at once.
///
/// [T] tensors cover the whole padded stream until ulysses_slice_inputs cuts them. `labels` and
/// what goes with it are position-aligned: entry t is about the token that follows token t.
struct PackedBatch {
  at::Tensor tokens;       ///< int64 [T]; padding holds 0
  at::Tensor positions;    ///< int64 [T], from 0 in each sequence
  at::Tensor labels;       ///< int64 [T]; the next token where there is one in the same
                           ///< sequence, else -1 (kNoLabel)
  at::Tensor target_mask;  ///< bool [T]; label t counts in the loss
  std::map<std::string, at::Tensor> fields;  ///< position-aligned float32 [T] (shifted by one)
  std::vector<int64_t> cu_seqlens;           ///< [N+1], whole stream, without the padding
  std::vector<int64_t> sequences;            ///< [N] indices in the file
  int64_t max_seqlen = 0;
  int64_t padded_tokens = 0;  ///< T, a multiple of the padding multiple
  int64_t targets = 0;        ///< in the whole stream
};

inline constexpr int64_t kNoLabel = -1;

/// Packs `sequences` (possibly none: padding alone). The batch has the fields of its sequences,
/// and those named in `fields` even where it has no sequence.
PackedBatch pack(const std::vector<Sequence>& sequences, int64_t padding_multiple,
                 const std::vector<std::string>& fields = {});

/// This cp rank's contiguous slice of every [T] tensor; T must be a multiple of cp.
/// cu_seqlens, max_seqlen, targets stay those of the whole stream.
PackedBatch ulysses_slice_inputs(const PackedBatch& batch, int cp_rank, int cp);

}  // namespace archon
