#pragma once

#include <functional>
#include <string>
#include <vector>

#include "archon/data/batch.hpp"
#include "archon/engine/flop.hpp"
#include "archon/engine/options.hpp"
#include "archon/model/config.hpp"

namespace archon {

/// Turns sequence indices into this data-parallel rank's packed, padded micro-batches. All ranks
/// make the same number of micro-batches of the same sequences; what they compute (TrainingFlop) is
/// balanced over dp.
class Batcher {
 public:
  /// `fields` are token-aligned datasets that the loss needs.
  Batcher(const RunOptions& options, const std::string& data, const DecoderConfig& config,
          const Mesh& mesh, std::vector<std::string> fields = {});

  const TokenDataset& dataset() const { return dataset_; }
  /// Of training on these sequences, over all ranks.
  double flop(const std::vector<int64_t>& sequences) const;
  /// Whole streams (not yet cut over cp), one per micro-batch.
  std::vector<PackedBatch> load(const std::vector<int64_t>& sequences) const;
  /// Walks the whole dataset in file order, a few micro-batches' worth of sequences at a time, so
  /// that memory stays bounded; calls `visit` for each micro-batch of this rank.
  void for_each(const std::function<void(const PackedBatch&)>& visit) const;

 private:
  TokenDataset dataset_;
  std::vector<std::string> fields_;
  TrainingFlop flop_;
  int64_t micro_batch_tokens_;
  int64_t padding_multiple_;
  const Mesh& mesh_;
};

}  // namespace archon
