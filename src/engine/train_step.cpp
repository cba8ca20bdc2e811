#include "archon/engine/train_step.hpp"

#include <ATen/ops/index_select.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "archon/base/log.hpp"
#include "archon/base/trace.hpp"
#include "archon/comm/watchdog.hpp"
#include "archon/loss/advantages.hpp"
#include "archon/optim/clip.hpp"
#include "archon/optim/gradients.hpp"

namespace archon {
namespace {

/// Where a step's sequences lie in its record: in the order of the file.
class StepPlaces {
 public:
  StepPlaces(const TokenDataset& dataset, std::vector<int64_t> sequences) {
    std::sort(sequences.begin(), sequences.end());
    for (const int64_t sequence : sequences) {
      first_row_[sequence] = tokens_;
      tokens_ += dataset.length(sequence);
    }
  }
  int64_t tokens() const { return tokens_; }
  TokenPlaces of(const PackedBatch& batch) const {
    TokenPlaces places{batch.cu_seqlens, {}};
    for (const int64_t sequence : batch.sequences)
      places.file_rows.push_back(first_row_.at(sequence));
    return places;
  }

 private:
  std::map<int64_t, int64_t> first_row_;
  int64_t tokens_ = 0;
};

bool matches_any(const std::vector<std::string>& patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
  });
}

int64_t global_targets(const std::vector<PackedBatch>& batches, const Mesh& mesh) {
  int64_t targets = 0;
  for (const PackedBatch& batch : batches) targets += batch.targets;
  return mesh.dp().all_reduce(targets);
}

/// What the sum over the global batch is multiplied with.
double global_scale(const std::vector<PackedBatch>& batches, const Objective& objective,
                    int64_t targets, const Mesh& mesh) {
  if (objective.is_token_mean()) return 1.0 / static_cast<double>(std::max<int64_t>(targets, 1));
  double size = 0;
  for (const PackedBatch& batch : batches) size += objective.size(batch);
  return 1.0 / std::max(mesh.dp().all_reduce(size), 1.0);
}

/// Rewards of the global batch's sequences, and the lengths of their answers.
void add_sequence_statistics(LossStatistics& statistics, const TokenDataset& dataset,
                             const std::vector<PackedBatch>& batches) {
  std::vector<int64_t> sequences;
  std::vector<double> lengths;
  for (const PackedBatch& batch : batches) {
    sequences.insert(sequences.end(), batch.sequences.begin(), batch.sequences.end());
    const at::Tensor targets = answer_lengths(batch.target_mask, batch.cu_seqlens);
    const double* begin = targets.const_data_ptr<double>();
    lengths.insert(lengths.end(), begin, begin + targets.numel());
  }
  const at::Tensor all = at::ones({static_cast<int64_t>(sequences.size())}, at::kBool);
  statistics.add_range("answer_length", at::tensor(lengths, at::kDouble), all);
  if (dataset.rewards().defined())
    statistics.add_range("reward",
                         dataset.rewards().index_select(0, at::tensor(sequences, at::kLong)), all);
}

/// Runs every micro-batch forward and backward; fills in loss and statistics of the global batch,
/// the latter not yet reduced.
void accumulate_gradients(const TrainOptions& options, const Objective& objective,
                          const LoadedModel& loaded, const Mesh& mesh,
                          const std::vector<PackedBatch>& batches, const StepPlaces& places,
                          StepResult& result, GoldenRecorder* recorder) {
  const double scale = global_scale(batches, objective, result.targets, mesh);
  const bool record_activations = recorder != nullptr && options.record.activations;
  if (record_activations) recorder->begin_activations(places.tokens());
  double loss = 0;
  for (const PackedBatch& batch : batches) {
    ActivationCollector collector(mesh);
    const MicroBatchLoss part =
        objective(*loaded.model, mesh, batch, scale, record_activations ? &collector : nullptr,
                  &result.statistics);
    {
      const TraceSpan span("backward");
      part.loss.backward();
    }
    loss += part.share;
    if (record_activations) recorder->activations(collector.take(), places.of(batch));
  }
  loss = mesh.shard_group().all_reduce(loss);
  result.loss = result.targets > 0 ? loss : 0;  // a pair's without targets is log 2
}

void record_before_step(const RecordOptions& options, const StepResult& result,
                        GoldenRecorder& recorder) {
  recorder.loss(result.loss);
  recorder.grad_norm(result.grad_norm);
  if (options.gradients) recorder.gradients();
}

}  // namespace

std::unique_ptr<Optimizer> make_optimizer(const TrainOptions& options, Model& model,
                                          const StateDictAdapter& adapter) {
  std::vector<OptimizerTensor> tensors;
  std::set<std::string> unused(options.no_decay.begin(), options.no_decay.end());
  for (const Parameter* parameter : model.parameters())
    for (std::size_t part = 0; part < parameter->parts().size(); ++part) {
      const std::string name = adapter.to_hf(parameter->parts()[part].name);
      tensors.push_back({name, parameter->owned_part(parameter->master(), part),
                         !matches_any(options.no_decay, name)});
      std::erase_if(unused, [&](const auto& pattern) { return matches_any({pattern}, name); });
    }
  for (const std::string& pattern : unused)
    log::warning("--no-decay {} names no parameter; archon inspect {} shows their names", pattern,
                 options.run.model);
  if (options.optimizer == OptimizerKind::sgd)
    return make_sgd(std::move(tensors), options.adamw.weight_decay);
  return make_adamw(std::move(tensors), options.adamw);
}

std::vector<at::Tensor> owned_parts(const Model& model,
                                    const std::function<at::Tensor(const Parameter&)>& tensor_of) {
  std::vector<at::Tensor> parts;
  for (const Parameter* parameter : model.parameters()) {
    const at::Tensor tensor = tensor_of(*parameter);
    for (std::size_t part = 0; part < parameter->parts().size(); ++part)
      parts.push_back(parameter->owned_part(tensor, part));
  }
  return parts;
}

StepResult train_step(const TrainOptions& options, const Objective& objective,
                      const LoadedModel& loaded, const Mesh& mesh, const Batcher& batcher,
                      Optimizer& optimizer, const std::vector<int64_t>& sequences, double lr,
                      GoldenRecorder* recorder) {
  Model& model = *loaded.model;
  const auto units = model.units();
  for (ParameterUnit* unit : units) unit->clear_gradients();

  const std::vector<PackedBatch> batches = batcher.load(sequences);
  const StepPlaces places(batcher.dataset(), sequences);
  StepResult result;
  result.tokens = places.tokens();
  result.targets = global_targets(batches, mesh);
  accumulate_gradients(options, objective, loaded, mesh, batches, places, result, recorder);
  if (objective.options.kind != LossKind::sft)
    add_sequence_statistics(result.statistics, batcher.dataset(), batches);
  const StageScope stage("optimizer step");
  {
    const TraceSpan span("reduce");
    reduce_gradients(units, model.sharding(), mesh);
    result.grad_norm = gradient_norm(units, mesh);
  }
  if (recorder != nullptr) record_before_step(options.record, result, *recorder);

  if (result.targets == 0) {
    log::warning("this batch has no target token: its loss is 0 and no step is taken");
  } else if (!std::isfinite(result.grad_norm)) {
    log::warning("the gradient norm is {}: no step is taken", result.grad_norm);
  } else {
    const TraceSpan span("optimizer");
    optimizer.step(owned_parts(model, &Parameter::grad), lr,
                   clip_coefficient(result.grad_norm, options.clip_grad_norm));
    for (ParameterUnit* unit : units) unit->refresh_values();
    result.stepped = true;
  }
  if (recorder != nullptr && options.record.weights) recorder->weights();
  return result;
}

}  // namespace archon
