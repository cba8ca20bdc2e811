#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "archon/engine/options.hpp"
#include "archon/engine/step_bound.hpp"
#include "archon/model/registry.hpp"

/// A training step on paper: what each rank would hold and send. The model is built from shapes,
/// on a mesh that exists on paper; nothing is allocated and nothing is sent. docs/performance.md
/// has the formulas.
namespace archon {

/// One micro-batch, as far as memory and messages depend on it.
struct MicroBatchShape {
  int64_t tokens = 0;            ///< T, padded
  int64_t filled = 0;            ///< tokens of sequences
  double squared_lengths = 0;    ///< sum over its sequences, for the cost of attention
  int64_t attention_bytes = 0;   ///< attention_backward_bytes of its sequences
  std::vector<int64_t> targets;  ///< [cp]: tokens of each cp rank's slice that count in the loss
};

/// [dp rank][micro-batch]
using BatchShape = std::vector<std::vector<MicroBatchShape>>;

/// How sequences of these lengths become micro-batches. Every token that has a next one in its
/// sequence counts as a target.
BatchShape shape_of_batch(const std::vector<int64_t>& lengths, const RunOptions& options,
                          const DecoderConfig& config, const MeshShape& mesh);

/// What one rank sends. A message is one block for one other rank.
struct PlannedTraffic {
  int64_t bytes = 0;
  int64_t messages = 0;
  PlannedTraffic& operator+=(const PlannedTraffic& other);
};

/// Of one training step, by the communicator that carries it.
struct TrafficPlan {
  PlannedTraffic world, dp, cp, tp, shard_group;
  PlannedTraffic units;  ///< of shard_group's: what travels while blocks compute
  /// Names and figures, in the order of the table.
  std::vector<std::pair<std::string, PlannedTraffic>> by_axis() const;
  PlannedTraffic total() const;
};

/// What memory holds.
enum class MemoryUse {
  masters,      ///< float32 parameters
  values,       ///< parameters in the compute type, where they stay on every rank
  gradients,    ///< float32 sums
  optimizer,    ///< AdamW's moments
  gathered,     ///< units whose parameters are there for the moment (--shard full)
  exchange,     ///< gradients on their way: outgoing, received and their sum
  activations,  ///< what forward keeps for backward
  working,      ///< results that live within one layer, or in the embedding's backward
  head,         ///< chunk of logits, gradients of the head and of the hidden states
  batch,        ///< tokens, labels, the window of the file, rotary table
  fixed,        ///< libraries, MPI and thread pools, once they are used; measured
};
inline constexpr int kMemoryUses = 11;
std::string to_string(MemoryUse use);

/// Memory at one moment of a step, in bytes.
struct MemoryPhase {
  std::string name;
  std::array<int64_t, kMemoryUses> bytes{};
  int64_t& operator[](MemoryUse use) { return bytes[static_cast<std::size_t>(use)]; }
  int64_t operator[](MemoryUse use) const { return bytes[static_cast<std::size_t>(use)]; }
  int64_t total() const;
};

struct MemoryPlan {
  std::vector<MemoryPhase> phases;  ///< in the order of a step
  std::string largest_name;         ///< the largest single buffer
  int64_t largest_bytes = 0;
  const MemoryPhase& peak() const;
  /// What is fixed is the process's: a GPU's own memory has nothing of it.
  void leave_out_fixed();
};

struct StepPlan {
  MeshShape mesh;
  MemoryPlan memory;
  TrafficPlan traffic;
  double flop = 0;  ///< of a rank whose dp rank has most to compute, recomputation included
  std::optional<StepBound> bound;  ///< of a step on GPUs
};

/// The plan of one rank. Memory is that of the largest micro-batch of any dp rank, traffic that of
/// the rank's own.
/// `options.run.mesh` is resolved. InputError when the head rules refuse the mesh.
StepPlan plan_step(const ModelSpec& spec, const DecoderConfig& config, const TrainOptions& options,
                   const BatchShape& batch, int rank = 0);

/// The same on GPUs, of a rank with most to compute: memory is the GPU's own, so nothing fixed is
/// counted, and there is a bound.
StepPlan plan_gpu_step(const ModelSpec& spec, const DecoderConfig& config,
                       const TrainOptions& options, const BatchShape& batch,
                       const GpuCluster& cluster);

/// A mesh that could be used, and how it compares.
struct MeshChoice {
  StepPlan plan;
  bool fits = true;
  double cost = 0;  ///< FLOP of a step, and kFlopPerByte for every byte sent; on GPUs the bound
};

struct MeshRanking {
  std::vector<MeshChoice> choices;  ///< at least one
  int refused = 0;                  ///< meshes that break the head rules
};

/// A rank computes about so many FLOP in the time in which it sends a byte.
inline constexpr double kFlopPerByte = 100;

/// Every mesh of `ranks` ranks that the head rules allow: those that fit `memory` bytes per rank
/// (0 = no limit) first, cheapest first; then the others, smallest peak first. On GPUs where a
/// cluster is given.
MeshRanking rank_meshes(const ModelSpec& spec, const DecoderConfig& config,
                        const TrainOptions& options, const std::vector<int64_t>& lengths, int ranks,
                        int64_t memory, const GpuCluster* cluster = nullptr);

}  // namespace archon
