#include "archon/data/batch.hpp"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>

#include "archon/base/error.hpp"
#include "archon/data/packing.hpp"

namespace archon {
namespace {

// Positions from 0 in [begin, end).
void count_up(const at::Tensor& positions, int64_t begin, int64_t end) {
  int64_t* values = positions.mutable_data_ptr<int64_t>();
  std::iota(values + begin, values + end, 0);
}

// Entry t of the stream gets what belongs to the token after it, within the sequence.
void copy_shifted(const at::Tensor& stream, int64_t begin, const at::Tensor& of_sequence) {
  const int64_t count = of_sequence.size(0) - 1;
  stream.narrow(0, begin, count).copy_(of_sequence.narrow(0, 1, count));
}

void append(PackedBatch& batch, const Sequence& sequence) {
  const int64_t begin = batch.cu_seqlens.back();
  const int64_t end = begin + sequence.length();
  batch.tokens.narrow(0, begin, sequence.length()).copy_(sequence.tokens);
  count_up(batch.positions, begin, end);
  copy_shifted(batch.labels, begin, sequence.tokens);
  copy_shifted(batch.target_mask, begin, sequence.loss_mask);
  ARCHON_ENSURE(sequence.fields.size() == batch.fields.size(),
                "sequence {} has {} fields where its batch has {}; read all with the same fields",
                sequence.index, sequence.fields.size(), batch.fields.size());
  for (const auto& [name, values] : sequence.fields)
    copy_shifted(batch.fields.at(name), begin, values);
  batch.cu_seqlens.push_back(end);
  batch.sequences.push_back(sequence.index);
  batch.max_seqlen = std::max(batch.max_seqlen, sequence.length());
}

}  // namespace

PackedBatch pack(const std::vector<Sequence>& sequences, int64_t padding_multiple,
                 const std::vector<std::string>& fields) {
  int64_t tokens = 0;
  for (const Sequence& sequence : sequences) tokens += sequence.length();

  PackedBatch batch;
  batch.padded_tokens = padded_tokens(tokens, padding_multiple);
  batch.tokens = at::zeros({batch.padded_tokens}, at::kLong);
  batch.positions = at::zeros({batch.padded_tokens}, at::kLong);
  batch.labels = at::full({batch.padded_tokens}, kNoLabel, at::kLong);
  batch.target_mask = at::zeros({batch.padded_tokens}, at::kBool);
  const auto add_field = [&](const std::string& name) {
    if (!batch.fields.contains(name)) batch.fields[name] = at::zeros({batch.padded_tokens});
  };
  for (const std::string& name : fields) add_field(name);
  for (const Sequence& sequence : sequences)
    for (const auto& [name, values] : sequence.fields) add_field(name);

  batch.cu_seqlens = {0};
  for (const Sequence& sequence : sequences) append(batch, sequence);
  count_up(batch.positions, tokens, batch.padded_tokens);
  batch.targets = batch.target_mask.sum().item<int64_t>();
  return batch;
}

PackedBatch ulysses_slice_inputs(const PackedBatch& batch, int cp_rank, int cp) {
  ARCHON_ENSURE(batch.padded_tokens % cp == 0 && cp_rank >= 0 && cp_rank < cp,
                "{} packed tokens have no slice {} of {}; pad to a multiple of cp",
                batch.padded_tokens, cp_rank, cp);
  const int64_t size = batch.padded_tokens / cp;
  const auto slice = [&](const at::Tensor& stream) {
    return stream.narrow(0, cp_rank * size, size);
  };
  PackedBatch mine = batch;
  mine.tokens = slice(batch.tokens);
  mine.positions = slice(batch.positions);
  mine.labels = slice(batch.labels);
  mine.target_mask = slice(batch.target_mask);
  for (auto& [name, values] : mine.fields) values = slice(values);
  return mine;
}

}  // namespace archon
