#include "archon/parallel/segment.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "archon/comm/watchdog.hpp"

namespace archon {
namespace {

using recomputation::Kept;
using recomputation::Scope;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Body = std::function<at::Tensor(const at::Tensor&)>;

at::Tensor random_state() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::scoped_lock lock(generator.mutex());
  return generator.get_state();
}

void set_random_state(const at::Tensor& state) {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::scoped_lock lock(generator.mutex());
  generator.set_state(state);
}

/// Draws as at `state` for as long as it lives.
class ReplayedRandomness {
 public:
  explicit ReplayedRandomness(const at::Tensor& state) : outside_(random_state()) {
    set_random_state(state);
  }
  ~ReplayedRandomness() { set_random_state(outside_); }
  ReplayedRandomness(const ReplayedRandomness&) = delete;
  ReplayedRandomness& operator=(const ReplayedRandomness&) = delete;

 private:
  at::Tensor outside_;
};

/// A function of x with a graph of its own, which is built in forward, or in backward if the
/// function is recomputed.
class Subgraph {
 public:
  Subgraph(Recompute recompute, ActivationOffload* offload, Body body)
      : recompute_(recompute), offload_(offload), body_(std::move(body)) {}

  at::Tensor forward(const at::Tensor& x) {
    requires_grad_ = x.requires_grad();
    input_ = x.detach();
    input_.set_requires_grad(requires_grad_);
    if (recompute_ == Recompute::none) {
      const at::Tensor output = build().detach();
      body_ = nullptr;
      return output;
    }
    random_state_ = random_state();
    const at::NoGradGuard no_grad;
    if (offload_ != nullptr) {
      stored_ = offload_->store(input_);
      input_.reset();
    }
    const Scope scope(Scope::Run::first, kept());
    return body_(x.detach());
  }

  /// Of x; gradients of parameters go where autograd puts them.
  at::Tensor backward(const at::Tensor& grad) {
    if (recompute_ != Recompute::none) {
      const ReplayedRandomness random(random_state_);
      const Scope scope(Scope::Run::second, kept());
      if (offload_ != nullptr) input_ = offload_->take(stored_).set_requires_grad(requires_grad_);
      build();
    }
    torch::autograd::backward({std::exchange(output_, at::Tensor())}, {grad});
    return std::exchange(input_, at::Tensor()).grad();
  }

 private:
  Kept* kept() { return recompute_ == Recompute::selective ? &kept_ : nullptr; }

  const at::Tensor& build() {
    const at::AutoGradMode grad(true);
    return output_ = body_(input_);
  }

  Recompute recompute_;
  ActivationOffload* offload_;
  Body body_;
  at::Tensor input_, output_, random_state_;
  bool requires_grad_ = false;
  std::shared_ptr<ActivationOffload::Stored> stored_;
  Kept kept_;
};

void before_backward(const Segment& segment) {
  if (segment.backward_uses_values) segment.unit.gather();
  if (segment.previous != nullptr) segment.previous->prefetch();
}

void after_backward(const Segment& segment) {
  segment.unit.release(/*after_forward=*/false);
  segment.unit.reduce_gradients();
}

/// Makes a Subgraph one node, and does what a segment wants done around its backward.
struct SubgraphNode : torch::autograd::Function<SubgraphNode> {
  struct State : torch::CustomClassHolder {
    State(const std::optional<Segment>& given, Recompute recompute, Body body)
        : segment(given), subgraph(recompute, given ? given->offload : nullptr, std::move(body)) {}
    std::optional<Segment> segment;
    Subgraph subgraph;
  };

  /// `anchor` requires grad, so that there is a node even where x does not.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& /*anchor*/, const c10::intrusive_ptr<State>& state) {
    context->saved_data["state"] = c10::IValue::make_capsule(state);
    return state->subgraph.forward(x);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto capsule = context->saved_data["state"].toCapsule();
    context->saved_data.clear();
    auto& state = static_cast<State&>(*capsule);
    const auto& segment = state.segment;
    Subgraph& subgraph = state.subgraph;
    if (!segment) return {subgraph.backward(grads[0]), at::Tensor(), at::Tensor()};
    const StageScope stage("backward pass", segment->unit.name());
    before_backward(*segment);
    const at::Tensor grad = subgraph.backward(grads[0]);
    after_backward(*segment);
    return {grad, at::Tensor(), at::Tensor()};
  }

  static at::Tensor run(const at::Tensor& x, const std::optional<Segment>& segment,
                        Recompute recompute, Body body) {
    return apply(x, at::zeros({1}).set_requires_grad(true),
                 c10::make_intrusive<State>(segment, recompute, std::move(body)));
  }
};

}  // namespace

at::Tensor run_segment(const Segment& segment, const at::Tensor& x, Body body) {
  const StageScope stage("forward pass", segment.unit.name());
  segment.unit.gather();
  if (segment.next != nullptr) segment.next->prefetch();
  const bool backward_comes = at::GradMode::is_enabled();
  at::Tensor y =
      backward_comes ? SubgraphNode::run(x, segment, segment.recompute, std::move(body)) : body(x);
  if (!backward_comes || !segment.backward_follows) segment.unit.release(backward_comes);
  return y;
}

at::Tensor run_recomputed(const at::Tensor& x, Body body) {
  if (!at::GradMode::is_enabled()) {
    const Scope scope(Scope::Run::first, nullptr);
    return body(x);
  }
  return SubgraphNode::run(x, std::nullopt, Recompute::full, std::move(body));
}

}  // namespace archon
