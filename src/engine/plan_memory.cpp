#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "archon/loss/log_probs.hpp"
#include "plan_shapes.hpp"

namespace archon {
namespace {

constexpr int64_t kFloat = sizeof(float);
constexpr int64_t kTokenBytes = 3 * 8 + 1;  // token, position, label, target mask
constexpr int64_t kFieldBytes = kFloat;
constexpr int64_t kFixedBytes = int64_t{48} << 20;

/// Sizes, in bytes, of what one block computes from one micro-batch on this rank.
struct BlockSizes {
  BlockSizes(const ShapeModel& shapes, const MicroBatchShape& batch) {
    const DecoderConfig& c = shapes.config;
    const int64_t tokens = batch.tokens;
    const int tp = shapes.mesh.tp().size(), cp = shapes.mesh.cp().size();
    const int64_t e = shapes.element(), slice = tokens / cp, share = slice / tp;
    const UlyssesHeads heads = shapes.heads();
    const int64_t width = even_range(c.intermediate_size, tp, shapes.mesh.tp().rank()).size();
    gathers = tp > 1;
    stream = share * c.hidden_size * e;
    whole = slice * c.hidden_size * e;
    qkv = slice * (heads.heads + 2 * heads.kv_heads) * c.head_dim * e;
    attention_in = tokens * heads.block() * c.head_dim * e;
    attention_out = slice * heads.heads * c.head_dim * e;
    glu = slice * width * e;
    norms = 2 * share * kFloat;
    head_norms = slice * (heads.heads + heads.kv_heads) * kFloat;
    log_sums = tokens * heads.heads_per_rank() * kFloat;
    down = width * c.hidden_size * e;
    if (shapes.policy.device.is_cpu())
      key_value_gradients = batch.attention_bytes * heads.heads_per_rank();
    exchanges = cp > 1;
    keeps_qkv = c.qk_norm;
    tiles = shapes.mlp_tiles(tokens);
  }

  /// Everything autograd keeps of a block, its input included.
  int64_t saved() const {
    const int64_t attention = (keeps_qkv ? qkv : 0) + attention_in +
                              (exchanges ? 2 : 1) * attention_out + head_norms + log_sums;
    return 2 * stream + whole + attention + mlp_saved() + norms;
  }
  int64_t mlp_saved() const { return tiles > 1 ? stream : whole + 3 * glu; }
  /// What a block keeps until its backward.
  int64_t kept(Recompute recompute) const {
    if (recompute == Recompute::none) return saved();
    if (recompute == Recompute::full) return stream;
    return 2 * stream + qkv + attention_out + log_sums + (tiles > 1 ? 0 : 2 * glu);
  }
  /// A sum over tp in the making: this rank's part, what arrives, the result.
  int64_t reduction() const { return (gathers ? 2 * whole : 0) + 2 * stream; }
  /// Beyond what is kept, at the end of the block's forward.
  int64_t forward_work(Recompute recompute) const {
    if (recompute == Recompute::none) return reduction();
    const int64_t mlp =
        (gathers ? 0 : whole) + (recompute == Recompute::full ? 3 : 1) * glu / tiles;
    const int64_t attention = attention_in + 2 * qkv;
    return reduction() + 2 * stream + std::max(mlp, attention);
  }
  /// Beyond everything autograd keeps, in the half of the block's backward that needs more: in that
  /// of attention what the feed-forward kept is gone.
  int64_t backward_work() const {
    const int64_t mlp = std::max(glu / tiles + down, 2 * glu / tiles);
    const int64_t first =
        2 * stream + (gathers ? whole : 0) + mlp + (tiles > 1 ? 3 * glu / tiles : 0);
    const int64_t second = 2 * stream + attention_out + attention_in + key_value_gradients;
    return std::max(first, second - mlp_saved());
  }

  int64_t stream = 0;         // [T/(cp·tp), D]
  int64_t whole = 0;          // [T/cp, D]
  int64_t qkv = 0;            // [T/cp, (H+2K)/tp, d]
  int64_t attention_in = 0;   // the same heads after Ulysses
  int64_t attention_out = 0;  // [T/cp, H/tp, d]
  int64_t glu = 0;            // [T/cp, F/tp]
  int64_t norms = 0, head_norms = 0, log_sums = 0;
  int64_t down = 0;  // gradient of the down projection
  int64_t key_value_gradients = 0;
  int64_t tiles = 1;
  bool gathers = false, exchanges = false, keeps_qkv = false;
};

class MemoryWalk {
 public:
  MemoryWalk(const ShapeModel& shapes, OptimizerKind optimizer,
             const std::vector<MicroBatchShape>& batches, const MicroBatchShape& largest)
      : shapes_(shapes),
        sizes_(shapes, largest),
        several_(batches.size() > 1),
        layers_(shapes.config.num_layers) {
    steady_[MemoryUse::fixed] = kFixedBytes;
    int64_t tokens = 0;
    for (const MicroBatchShape& batch : batches) tokens += batch.tokens;
    steady_[MemoryUse::batch] =
        tokens * (kTokenBytes + 8 + 8 + (shapes.config.critic ? 4 * kFieldBytes : 0)) +
        largest.tokens / shapes.mesh.cp().size() * shapes.config.head_dim * kFloat;
    for (const ParameterUnit* unit : shapes.units) {
      steady_[MemoryUse::masters] += unit->block() * kFloat;
      if (optimizer == OptimizerKind::adamw)
        steady_[MemoryUse::optimizer] += 2 * unit->block() * kFloat;
      const bool shares_master = !shapes.sharding.sharded() && shapes.element() == kFloat;
      if (!shapes.full() && !shares_master)
        steady_[MemoryUse::values] += unit->elements() * shapes.element();
      all_gradients_ += gradient(*unit);
    }
    targets_ = largest.targets[shapes.mesh.cp_rank()];
  }

  std::vector<MemoryPhase> phases() const {
    std::vector<MemoryPhase> all = {forward(), head(), head_backward()};
    std::vector<MemoryPhase> backward;
    for (int64_t layer = layers_ - 1; layer >= 0; --layer)
      backward.push_back(layer_backward(layer));
    all.push_back(*std::max_element(
        backward.begin(), backward.end(),
        [](const MemoryPhase& a, const MemoryPhase& b) { return a.total() < b.total(); }));
    all.push_back(embedding_backward());
    all.push_back(reduction());
    all.push_back(optimizer());
    return all;
  }

  /// A chunk of them, in the compute type, in which they turn into their gradient.
  int64_t logits() const {
    return std::min(logit_chunk_tokens(shapes_.config.hidden_size), targets_) *
           shapes_.vocab_rows() * shapes_.element();
  }

 private:
  /// What this rank keeps of a unit's gradient: its block, or all of it.
  int64_t gradient(const ParameterUnit& unit) const {
    int64_t bytes = 0;
    for (const Parameter* parameter : unit.parameters())
      bytes += parameter->owned().size() * gradient_element(unit, *parameter);
    return bytes;
  }
  int64_t gradient_element(const ParameterUnit& unit, const Parameter& parameter) const {
    // A tied embedding's comes from two backwards.
    const bool one = !several_ && !(shapes_.tied() && &unit == &shapes_.embedding());
    return one && shapes_.sharding.keeps_type(parameter) ? shapes_.element() : kFloat;
  }
  int64_t values(const ParameterUnit& unit) const {
    return shapes_.full() ? unit.elements() * shapes_.element() : 0;
  }
  /// Gradients of a backward before they are summed.
  int64_t outgoing(const ParameterUnit& unit) const {
    return shapes_.sharding.sharded() ? unit.elements() * shapes_.gradient_element() : 0;
  }
  /// The same on its way: sent, received, and the sum.
  int64_t in_flight(const ParameterUnit& unit) const {
    return shapes_.sharding.sharded() ? 2 * outgoing(unit) + unit.block() * kFloat : 0;
  }
  /// Of what a layer keeps until its backward; its input may wait elsewhere.
  int64_t kept_on_device(int64_t layer) const {
    const Recompute recompute = shapes_.recompute(layer);
    const bool offloads = shapes_.memory.activations.offload && recompute != Recompute::none;
    return sizes_.kept(recompute) - (offloads ? sizes_.stream : 0);
  }
  int64_t head_weight() const { return shapes_.vocab_rows() * shapes_.config.hidden_size; }

  /// Activations of layers [0, end), and the gradients that were there before this micro-batch.
  MemoryPhase at(std::string name, int64_t end) const {
    MemoryPhase phase = steady_;
    phase.name = std::move(name);
    phase[MemoryUse::activations] = sizes_.stream;  // what the last of them gives
    if (shapes_.memory.activations.offload)
      phase[MemoryUse::activations] += sizes_.stream;  // on its way to or from the host
    for (int64_t layer = 0; layer < end; ++layer)
      phase[MemoryUse::activations] += kept_on_device(layer);
    if (several_) phase[MemoryUse::gradients] = all_gradients_;
    if (!shapes_.policy.reshard_after_forward) {
      phase[MemoryUse::gathered] = shapes_.tied() ? 0 : values(shapes_.embedding());
      for (int64_t layer = 0; layer < end; ++layer)
        phase[MemoryUse::gathered] += values(shapes_.layer(layer));
    }
    return phase;
  }
  void add_gathered(MemoryPhase& phase, const ParameterUnit& current,
                    const ParameterUnit* coming) const {
    phase[MemoryUse::gathered] += values(current) + (coming == nullptr ? 0 : values(*coming));
  }

  MemoryPhase forward() const {
    const int64_t last = layers_ - 1;
    MemoryPhase phase = at("forward of the last layer", last);
    const Recompute recompute = shapes_.recompute(last);
    phase[MemoryUse::activations] += sizes_.kept(recompute) - sizes_.stream;
    phase[MemoryUse::working] = sizes_.forward_work(recompute);
    add_gathered(phase, shapes_.layer(last), &shapes_.last());
    return phase;
  }

  MemoryPhase head() const {
    MemoryPhase phase = at("loss", layers_);
    add_gathered(phase, shapes_.last(), nullptr);
    phase[MemoryUse::working] = sizes_.stream + (sizes_.gathers ? sizes_.whole : 0);
    if (shapes_.config.critic) return phase;
    const int64_t e = shapes_.element();
    const bool several = targets_ > logit_chunk_tokens(shapes_.config.hidden_size);
    // The head's gradient, and a chunk's part of it where there are several.
    const int64_t weight_gradient = head_weight() * (several ? kFloat + e : e);
    phase[MemoryUse::head] = 2 * targets_ * shapes_.config.hidden_size * e +  // picked, gradient
                             weight_gradient + logits();
    return phase;
  }

  MemoryPhase head_backward() const {
    MemoryPhase phase = at("backward of the loss", layers_);
    const ParameterUnit& coming = shapes_.layer(layers_ - 1);
    add_gathered(phase, shapes_.last(), shapes_.policy.reshard_after_forward ? &coming : nullptr);
    phase[MemoryUse::working] = 2 * sizes_.stream + (sizes_.gathers ? 2 * sizes_.whole : 0);
    if (!shapes_.config.critic)
      phase[MemoryUse::head] =
          (head_weight() + targets_ * shapes_.config.hidden_size) * shapes_.element();
    phase[MemoryUse::exchange] = in_flight(shapes_.last());
    if (!shapes_.sharding.sharded() && !several_)
      phase[MemoryUse::gradients] = gradient(shapes_.last());
    return phase;
  }

  MemoryPhase layer_backward(int64_t layer) const {
    MemoryPhase phase = at(fmt::format("backward of layer {}", layer + 1), layer);
    const ParameterUnit& unit = shapes_.layer(layer);
    const ParameterUnit& before = layer + 1 == layers_ ? shapes_.last() : shapes_.layer(layer + 1);
    phase[MemoryUse::activations] += sizes_.saved() - sizes_.stream;
    phase[MemoryUse::working] = sizes_.backward_work();
    phase[MemoryUse::exchange] = outgoing(unit) + in_flight(before);
    add_gathered(
        phase, unit,
        layer > 0 && shapes_.policy.reshard_after_forward ? &shapes_.layer(layer - 1) : nullptr);
    if (several_) return phase;
    for (int64_t later = layer + 1; later < layers_; ++later)
      phase[MemoryUse::gradients] += gradient(shapes_.layer(later));
    phase[MemoryUse::gradients] += gradient(shapes_.last());
    // In flight is not summed yet; without sharding the layer's own gradients are here.
    phase[MemoryUse::gradients] += shapes_.sharding.sharded() ? -gradient(before) : gradient(unit);
    return phase;
  }

  MemoryPhase embedding_backward() const {
    MemoryPhase phase = at("backward of the embedding", 0);
    const ParameterUnit& unit = shapes_.embedding();
    phase[MemoryUse::gradients] =
        all_gradients_ - (several_ || shapes_.tied() ? 0 : gradient(unit));
    // The gradient of the table.
    phase[MemoryUse::working] =
        head_weight() * shapes_.element() + sizes_.stream + (sizes_.gathers ? sizes_.whole : 0);
    phase[MemoryUse::exchange] = outgoing(unit) + in_flight(shapes_.layer(0));
    if (!shapes_.sharding.sharded()) phase[MemoryUse::gradients] = all_gradients_;
    return phase;
  }

  MemoryPhase reduction() const {
    MemoryPhase phase = steady_;
    phase.name = "sum over ranks";
    phase[MemoryUse::gradients] = all_gradients_;
    const int64_t ranks = shapes_.mesh.shard_group().size();
    int64_t largest = 0;
    for (const ParameterUnit* unit : shapes_.units)
      for (const Parameter* parameter : unit->parameters())
        largest = std::max(largest, parameter->local_numel() * kFloat);
    if (shapes_.sharding.sharded())
      phase[MemoryUse::exchange] = in_flight(shapes_.embedding());
    else if (ranks > 1)
      phase[MemoryUse::exchange] = largest + largest / ranks;
    return phase;
  }

  MemoryPhase optimizer() const {
    MemoryPhase phase = steady_;
    phase.name = "optimizer";
    phase[MemoryUse::gradients] = all_gradients_;
    return phase;
  }

  const ShapeModel& shapes_;
  BlockSizes sizes_;
  bool several_;  // micro-batches: later ones find the gradients of earlier ones
  int64_t layers_;
  int64_t targets_ = 0;
  int64_t all_gradients_ = 0;
  MemoryPhase steady_;  // what stays for the whole step
};

/// The largest tensor there is at any time.
void find_largest_buffer(const ShapeModel& shapes, const BlockSizes& sizes, int64_t logits,
                         MemoryPlan& plan) {
  const auto offer = [&](const std::string& name, int64_t bytes) {
    if (bytes > plan.largest_bytes)
      std::tie(plan.largest_name, plan.largest_bytes) = std::tie(name, bytes);
  };
  for (const ParameterUnit* unit : shapes.units) {
    offer(std::string("masters of ") + unit->name(), unit->block() * kFloat);
    if (shapes.sharding.sharded()) {
      offer(std::string("parameters of ") + unit->name(), unit->elements() * shapes.element());
      offer(std::string("gradients of ") + unit->name(),
            unit->elements() * shapes.gradient_element());
    }
  }
  offer("gate and up projections", 2 * sizes.glu / sizes.tiles);
  offer("query, key and value heads", std::max(sizes.qkv, sizes.attention_in));
  if (shapes.config.critic) return;
  offer("gradient of the head, float32", shapes.vocab_rows() * shapes.config.hidden_size * kFloat);
  offer("chunk of logits", logits);
}

}  // namespace

std::string to_string(MemoryUse use) {
  constexpr std::array<const char*, kMemoryUses> kNames = {
      "masters",     "values",  "gradients", "optimizer", "gathered", "exchange",
      "activations", "working", "head",      "batch",     "fixed"};
  return kNames[static_cast<std::size_t>(use)];
}

int64_t MemoryPhase::total() const {
  int64_t sum = 0;
  for (const int64_t each : bytes) sum += each;
  return sum;
}

void MemoryPlan::leave_out_fixed() {
  for (MemoryPhase& phase : phases) phase[MemoryUse::fixed] = 0;
}

const MemoryPhase& MemoryPlan::peak() const {
  return *std::max_element(
      phases.begin(), phases.end(),
      [](const MemoryPhase& a, const MemoryPhase& b) { return a.total() < b.total(); });
}

MemoryPlan plan_memory(const ShapeModel& shapes, OptimizerKind optimizer, const BatchShape& batch) {
  const MicroBatchShape* largest = &batch.front().front();
  for (const std::vector<MicroBatchShape>& rank : batch)
    for (const MicroBatchShape& each : rank)
      if (each.tokens > largest->tokens) largest = &each;
  const MemoryWalk walk(shapes, optimizer, batch[shapes.mesh.dp_rank()], *largest);
  MemoryPlan plan;
  plan.phases = walk.phases();
  find_largest_buffer(shapes, BlockSizes(shapes, *largest), walk.logits(), plan);
  return plan;
}

}  // namespace archon
