#pragma once

#include <string>

#include "archon/checkpoint/token_outputs.hpp"
#include "archon/engine/batcher.hpp"
#include "archon/engine/loaded_model.hpp"
#include "archon/loss/log_probs.hpp"

/// What a model says of every token of a data set, whole and in the order of the file.
namespace archon {

/// Where a batch's sequences lie in a file of all tokens.
TokenPlaces places_in_file(const PackedBatch& batch, const TokenDataset& dataset);

/// Token-aligned log-probabilities (and entropy) of the whole stream, from the hidden states of
/// this rank's slice. Collective over the model-parallel group.
LogProbs stream_log_probs(const at::Tensor& hidden, const PackedBatch& slice, const Model& model,
                          const Mesh& mesh, double temperature, bool with_entropy);

/// Writes the log-probability of every token of a data set as a dataset [T], token-aligned.
/// Collective over the mesh.
void write_log_probs(const LoadedModel& loaded, const Mesh& mesh, const Batcher& batcher,
                     double temperature, TokenOutputs& outputs, const std::string& dataset);

/// The same of a critic's values, token-aligned: entry t is the value at the token before t.
void write_old_values(const LoadedModel& loaded, const Mesh& mesh, const Batcher& batcher,
                      TokenOutputs& outputs, const std::string& dataset);

}  // namespace archon
