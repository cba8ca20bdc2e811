#include "archon/engine/model_outputs.hpp"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include "archon/data/gather.hpp"
#include "archon/engine/objective.hpp"
#include "archon/parallel/collectives.hpp"

namespace archon {
namespace {

/// Position-aligned [T] (entry t is about token t+1) to token-aligned: shifted by one, and 0 at
/// first tokens, which would get an entry of whatever sequence was packed before.
at::Tensor token_aligned(const at::Tensor& x, const std::vector<int64_t>& cu_seqlens) {
  at::Tensor shifted = at::zeros_like(x);
  shifted.narrow(0, 1, x.size(0) - 1).copy_(x.narrow(0, 0, x.size(0) - 1));
  const std::vector<int64_t> first(cu_seqlens.begin(), cu_seqlens.end() - 1);
  return shifted.index_fill_(0, at::tensor(first, at::kLong).to(x.device()), 0);
}

/// Calls `tail` with this rank's share of the hidden states, batch by batch, and writes the whole
/// stream that it gives.
template <class Tail>
void write_of_all(const LoadedModel& loaded, const Mesh& mesh, const Batcher& batcher,
                  TokenOutputs& outputs, const std::string& dataset, const Tail& tail) {
  const c10::NoGradGuard no_grad;
  outputs.create(dataset, {}, batcher.dataset().tokens());
  batcher.for_each([&](const PackedBatch& batch) {
    const PackedBatch slice = ulysses_slice_inputs(batch, mesh.cp_rank(), mesh.shape().cp);
    const at::Tensor stream = loaded.model->forward(
        model_input(slice), [&](const at::Tensor& share) { return tail(share, slice); });
    outputs.write(dataset, stream, places_in_file(batch, batcher.dataset()));
  });
}

}  // namespace

TokenPlaces places_in_file(const PackedBatch& batch, const TokenDataset& dataset) {
  TokenPlaces places{batch.cu_seqlens, {}};
  for (const int64_t sequence : batch.sequences)
    places.file_rows.push_back(dataset.cu_seqlens()[sequence]);
  return places;
}

LogProbs stream_log_probs(const at::Tensor& hidden, const PackedBatch& slice, const Model& model,
                          const Mesh& mesh, double temperature, bool with_entropy) {
  LogProbs result = vocab_parallel_log_probs(hidden, vocab_parallel_head(model, mesh, temperature),
                                             slice.labels, with_entropy);
  const auto whole = [&](at::Tensor& x) {
    if (x.defined()) x = token_aligned(ulysses_gather_output(x, mesh.cp()), slice.cu_seqlens);
  };
  whole(result.log_probs);
  whole(result.entropy);
  return result;
}

void write_log_probs(const LoadedModel& loaded, const Mesh& mesh, const Batcher& batcher,
                     double temperature, TokenOutputs& outputs, const std::string& dataset) {
  write_of_all(loaded, mesh, batcher, outputs, dataset,
               [&](const at::Tensor& share, const PackedBatch& slice) {
                 return stream_log_probs(differentiable::all_gather(share, mesh.tp()), slice,
                                         *loaded.model, mesh, temperature, /*with_entropy=*/false)
                     .log_probs;
               });
}

void write_old_values(const LoadedModel& loaded, const Mesh& mesh, const Batcher& batcher,
                      TokenOutputs& outputs, const std::string& dataset) {
  write_of_all(loaded, mesh, batcher, outputs, dataset,
               [&](const at::Tensor& share, const PackedBatch& slice) {
                 return token_aligned(whole_stream(critic_values(*loaded.model, share), mesh),
                                      slice.cu_seqlens);
               });
}

}  // namespace archon
