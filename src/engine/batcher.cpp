#include "archon/engine/batcher.hpp"

#include <c10/core/ScalarType.h>

#include <iterator>

#include "archon/base/activity.hpp"
#include "archon/base/error.hpp"
#include "archon/data/packing.hpp"

namespace archon {
namespace {

// How many micro-batches' worth of tokens for_each packs at once: enough to fill them well.
constexpr int64_t kGroupMicroBatches = 8;

}  // namespace

Batcher::Batcher(const RunOptions& options, const std::string& data, const DecoderConfig& config,
                 const Mesh& mesh, DataNeeds needs)
    : dataset_(data, config.vocab_size, needs.fields, needs.beside),
      needs_(std::move(needs)),
      flop_(config),
      micro_batch_tokens_(options.micro_batch_tokens),
      padding_multiple_(padding_multiple(config.hidden_size, c10::elementSize(options.dtype),
                                         options.pad_limit, mesh.shape().tp, mesh.shape().cp)),
      mesh_(mesh) {
  ARCHON_VALIDATE(dataset_.size() % needs_.unit == 0,
                  "{} has {} sequences, and --loss dpo takes pairs, a chosen one before a rejected "
                  "one; complete the last pair",
                  dataset_.path(), dataset_.size());
  if (options.max_sequence == 0) return;
  for (int64_t i = 0; i < dataset_.size(); ++i)
    ARCHON_VALIDATE(dataset_.length(i) <= options.max_sequence,
                    "{}: sequence {} has {} tokens, more than --max-sequence {}; shorten the "
                    "sequences of the dataset, or raise the limit",
                    dataset_.path(), i, dataset_.length(i), options.max_sequence);
}

double Batcher::flop(const std::vector<int64_t>& sequences) const {
  double total = 0;
  for (const int64_t sequence : sequences) total += flop_.of_sequence(dataset_.length(sequence));
  return total;
}

std::vector<PackedBatch> Batcher::load(const std::vector<int64_t>& sequences) const {
  const ActivityScope reading(Activity::data, "data");
  const int64_t unit = needs_.unit;
  std::vector<int64_t> lengths(sequences.size() / unit, 0);
  std::vector<double> costs(lengths.size(), 0);
  for (std::size_t i = 0; i < lengths.size() * unit; ++i) {
    const int64_t length = dataset_.length(sequences[i]);
    lengths[i / unit] += length;
    costs[i / unit] += flop_.of_sequence(length);
  }
  const MicroBatchPlan plan =
      plan_micro_batches(lengths, costs, micro_batch_tokens_, mesh_.shape().dp);

  std::vector<PackedBatch> batches;
  for (const std::vector<int64_t>& members : plan[mesh_.dp_rank()]) {
    std::vector<Sequence> packed;
    packed.reserve(members.size() * unit);
    for (const int64_t member : members)
      for (int64_t i = member * unit; i < (member + 1) * unit; ++i)
        packed.push_back(dataset_.read(sequences[i]));
    batches.push_back(pack(packed, padding_multiple_, needs_.fields));
  }
  return batches;
}

void Batcher::for_each(const std::function<void(const PackedBatch&)>& visit) const {
  const int64_t group_tokens = kGroupMicroBatches * micro_batch_tokens_ * mesh_.shape().dp;
  std::vector<int64_t> group;
  int64_t tokens = 0;
  for (int64_t sequence = 0; sequence < dataset_.size(); ++sequence) {
    group.push_back(sequence);
    tokens += dataset_.length(sequence);
    const bool full = tokens >= group_tokens && std::ssize(group) % needs_.unit == 0;
    if (!full && sequence + 1 < dataset_.size()) continue;
    for (const PackedBatch& batch : load(group)) visit(batch);
    group.clear();
    tokens = 0;
  }
}

}  // namespace archon
