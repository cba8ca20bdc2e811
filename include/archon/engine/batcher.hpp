#pragma once

#include <functional>
#include <string>
#include <vector>

#include "archon/data/batch.hpp"
#include "archon/engine/flop.hpp"
#include "archon/engine/options.hpp"
#include "archon/model/config.hpp"

namespace archon {

/// What a loss asks of a data set.
struct DataNeeds {
  std::vector<std::string> fields{};  ///< token-aligned datasets
  std::string beside{};               ///< file with those that the data set lacks; "" = none
  int64_t unit = 1;                   ///< neighbouring sequences that share a micro-batch
};

/// Turns sequence indices into this data-parallel rank's packed, padded micro-batches. All ranks
/// make the same number of micro-batches of the same sequences; what they compute (TrainingFlop) is
/// balanced over dp.
class Batcher {
 public:
  Batcher(const RunOptions& options, const std::string& data, const DecoderConfig& config,
          const Mesh& mesh, DataNeeds needs = {});

  const TokenDataset& dataset() const { return dataset_; }
  /// Of training on these sequences, over all ranks.
  double flop(const std::vector<int64_t>& sequences) const;
  /// Whole streams (not yet cut over cp), one per micro-batch. Units come whole, one after another.
  std::vector<PackedBatch> load(const std::vector<int64_t>& sequences) const;
  /// Walks the whole dataset in file order, a few micro-batches' worth of sequences at a time, so
  /// that memory stays bounded; calls `visit` for each micro-batch of this rank.
  void for_each(const std::function<void(const PackedBatch&)>& visit) const;

 private:
  TokenDataset dataset_;
  DataNeeds needs_;
  TrainingFlop flop_;
  int64_t micro_batch_tokens_;
  int64_t padding_multiple_;
  const Mesh& mesh_;
};

}  // namespace archon
