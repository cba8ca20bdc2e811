#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "archon/engine/plan.hpp"

/// The formulas of docs/performance.md ("What a step sends"), written out with its symbols from
/// nothing but a model's config and the shape of a batch: a second opinion on plan_traffic.cpp.
namespace archon::test {

struct DocumentedTraffic {
  DocumentedTraffic(const DecoderConfig& config, const TrainOptions& options, int rank)
      : c(config),
        memory(options.run.memory),
        tp(options.run.mesh.tp),
        cp(options.run.mesh.cp),
        dp(options.run.mesh.dp),
        S(static_cast<int64_t>(dp) * cp),
        tp_rank(rank % tp),
        cp_rank(rank / tp % cp),
        dp_rank(rank / tp / cp),
        world_rank(rank),
        e(options.run.dtype == at::kFloat ? 4 : 2),
        g(memory.activations.mlp_tile_tokens > 0 ? 4 : e),
        tied(c.tied_embeddings && !c.critic) {}

  /// One block for each other rank of a group of n.
  static PlannedTraffic blocks(int64_t n, int64_t bytes, int64_t times = 1) {
    return {times * (n - 1) * bytes, times * (n - 1)};
  }
  /// all_reduce of N numbers of w bytes.
  static PlannedTraffic all_reduce(int64_t n, int64_t r, int64_t N, int64_t w) {
    if (n == 1 || N == 0) return {};
    if (N * w <= 4096) return blocks(n, N * w);
    const int64_t m = w * (N / n + (r < N % n ? 1 : 0));
    return {N * w + (n - 2) * m, 2 * (n - 1)};
  }
  /// This tp rank's share of N rows.
  int64_t share(int64_t N) const { return N / tp + (tp_rank < N % tp ? 1 : 0); }

  bool recomputed(int64_t layer) const {
    using Mode = ActivationCheckpointing::Mode;
    const auto& checkpointing = memory.activations.checkpointing;
    return checkpointing.mode == Mode::every ? layer % checkpointing.every == 0
                                             : checkpointing.mode != Mode::none;
  }
  bool selective() const {
    return memory.activations.checkpointing.mode == ActivationCheckpointing::Mode::selective;
  }

  void micro_batch(const MicroBatchShape& batch) {
    const int64_t T = batch.tokens, D = c.hidden_size, H = c.num_heads, K = c.num_kv_heads;
    const int64_t stream = T / (cp * tp) * D * e, tile = memory.activations.mlp_tile_tokens;
    const int64_t tiles = tile == 0 ? 1 : (T / (cp * tp) + tile - 1) / tile;
    for (int64_t layer = 0; layer < c.num_layers; ++layer) {
      const bool again = recomputed(layer);
      const int64_t attention = 4 + (!again ? 0 : selective() ? 1 : 2);
      const int64_t mlp = 4 + (tiles == 1 ? (again ? 1 : 0) : (again ? 3 : 1));
      sent["tp"] += blocks(tp, stream, attention);
      sent["tp"] += {blocks(tp, stream, mlp).bytes, mlp * tiles * (tp - 1)};
      const int64_t out = H / (tp * cp), in = out + 2 * std::max<int64_t>(1, K / tp / cp);
      for (const int64_t heads : {in, out})
        sent["cp"] += blocks(cp, T / cp * heads * c.head_dim * e, again ? 3 : 2);
    }
    sent["tp"] += blocks(tp, stream, c.critic ? 2 : 4);
    if (c.critic) {
      sent["tp"] += blocks(tp, 8);
    } else {
      const int64_t n = batch.targets[cp_rank], C = std::clamp<int64_t>(D, 16, 1024);
      sent["tp"] += {(tp - 1) * 16 * n, (tp - 1) * ((n + C - 1) / C)};
    }
    if (memory.shard == ShardMode::none) return;
    const int64_t twice = memory.reshard_after_forward ? 2 : 1;
    unit(embedding() + (tied ? D : 0), tied ? twice : 1, tied ? 2 : 1);
    for (int64_t layer = 0; layer < c.num_layers; ++layer) unit(layer_elements(), twice, 1);
    if (!tied) unit(D + head(), 1, 1);
  }

  void unit(int64_t elements, int64_t gathers, int64_t reductions) {
    const int64_t B = (elements + S - 1) / S;
    if (memory.shard == ShardMode::full) sent["shard"] += blocks(S, B * e, gathers);
    sent["shard"] += blocks(S, B * g, reductions);
  }

  void step() {
    const int64_t shard_rank = dp_rank * cp + cp_rank, W = S * tp, D = c.hidden_size;
    sent["dp"] += blocks(dp, 8);
    sent["shard"] += blocks(S, 8);
    sent["world"] += blocks(W, 8);
    const int64_t R = c.num_layers * (2 * D + (c.qk_norm ? 2 * c.head_dim : 0)) + D +
                      (c.critic ? D : 0);
    sent["world"] += all_reduce(W, world_rank, R, 4);
    if (memory.shard == ShardMode::optimizer) {
      for (const int64_t elements : units()) sent["shard"] += blocks(S, (elements + S - 1) / S * e);
    } else if (memory.shard == ShardMode::none) {
      std::vector<int64_t> parameters = {embedding()};
      if (!tied && !c.critic) parameters.push_back(head());
      for (int64_t layer = 0; layer < c.num_layers; ++layer) {
        parameters.insert(parameters.end(), {qkv_rows() * D, output(), 2 * F() * D, F() * D});
        if (c.qkv_bias) parameters.push_back(qkv_rows());
      }
      for (const int64_t N : parameters) sent["shard"] += all_reduce(S, shard_rank, N, 4);
    }
  }

  int64_t F() const { return share(c.intermediate_size); }
  int64_t qkv_rows() const { return (c.num_heads + 2 * c.num_kv_heads) / tp * c.head_dim; }
  int64_t output() const { return c.hidden_size * c.num_heads / tp * c.head_dim; }
  int64_t embedding() const { return share(c.vocab_size) * c.hidden_size; }
  int64_t head() const { return c.critic ? c.hidden_size : embedding(); }
  int64_t layer_elements() const {
    const int64_t norms = 2 * c.hidden_size + (c.qk_norm ? 2 * c.head_dim : 0);
    return norms + qkv_rows() * (c.hidden_size + (c.qkv_bias ? 1 : 0)) + output() +
           3 * F() * c.hidden_size;
  }
  std::vector<int64_t> units() const {
    std::vector<int64_t> all(c.num_layers, layer_elements());
    all.push_back(embedding() + (tied ? c.hidden_size : 0));
    if (!tied) all.push_back(c.hidden_size + head());
    return all;
  }

  const DecoderConfig& c;
  const MemoryOptions& memory;
  int64_t tp, cp, dp, S, tp_rank, cp_rank, dp_rank, world_rank, e, g;
  bool tied;
  std::map<std::string, PlannedTraffic> sent{
      {"tp", {}}, {"cp", {}}, {"dp", {}}, {"shard", {}}, {"world", {}}};
};

/// By axis, named as in metrics.jsonl; what this rank sends in a step.
inline std::map<std::string, PlannedTraffic> documented_traffic(const DecoderConfig& config,
                                                                const TrainOptions& options,
                                                                const BatchShape& batch, int rank) {
  DocumentedTraffic traffic(config, options, rank);
  for (const MicroBatchShape& each : batch[traffic.dp_rank]) traffic.micro_batch(each);
  traffic.step();
  return traffic.sent;
}

}  // namespace archon::test
