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
class Subgraph : public torch::CustomClassHolder {
 public:
  Subgraph(Recompute recompute, Body body) : recompute_(recompute), body_(std::move(body)) {}

  at::Tensor forward(const at::Tensor& x) {
    input_ = x.detach();
    input_.set_requires_grad(x.requires_grad());
    if (recompute_ == Recompute::none) {
      const at::Tensor output = build().detach();
      body_ = nullptr;
      return output;
    }
    random_state_ = random_state();
    const at::NoGradGuard no_grad;
    const Scope scope(Scope::Run::first, kept());
    return body_(input_.detach());
  }

  /// Of x; gradients of parameters go where autograd puts them.
  at::Tensor backward(const at::Tensor& grad) {
    if (recompute_ != Recompute::none) {
      const ReplayedRandomness random(random_state_);
      const Scope scope(Scope::Run::second, kept());
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
  Body body_;
  at::Tensor input_, output_, random_state_;
  Kept kept_;
};

/// Makes a Subgraph one node. `before` and `after` run around its backward.
struct SubgraphNode : torch::autograd::Function<SubgraphNode> {
  struct Hooks : torch::CustomClassHolder {
    std::function<void()> before, after;
  };

  /// `anchor` requires grad, so that there is a node even where x does not.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor&,
                            const c10::intrusive_ptr<Subgraph>& subgraph,
                            const c10::intrusive_ptr<Hooks>& hooks) {
    context->saved_data["subgraph"] = c10::IValue::make_capsule(subgraph);
    context->saved_data["hooks"] = c10::IValue::make_capsule(hooks);
    return subgraph->forward(x);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto subgraph = context->saved_data["subgraph"].toCapsule();
    const auto hooks = context->saved_data["hooks"].toCapsule();
    const auto& around = static_cast<const Hooks&>(*hooks);
    context->saved_data.clear();
    if (around.before) around.before();
    const at::Tensor grad = static_cast<Subgraph&>(*subgraph).backward(grads[0]);
    if (around.after) around.after();
    return {grad, at::Tensor(), at::Tensor(), at::Tensor()};
  }

  static at::Tensor run(const at::Tensor& x, Recompute recompute, Body body,
                        std::function<void()> before, std::function<void()> after) {
    auto hooks = c10::make_intrusive<Hooks>();
    hooks->before = std::move(before);
    hooks->after = std::move(after);
    return apply(x, at::zeros({1}).set_requires_grad(true),
                 c10::make_intrusive<Subgraph>(recompute, std::move(body)), hooks);
  }
};

void before_backward(const Segment& segment) {
  if (segment.backward_uses_values) segment.unit.gather();
  if (segment.previous != nullptr) segment.previous->prefetch();
}

void after_backward(const Segment& segment) {
  segment.unit.release(/*after_forward=*/false);
  segment.unit.reduce_gradients();
}

}  // namespace

at::Tensor run_segment(const Segment& segment, const at::Tensor& x, Body body) {
  segment.unit.gather();
  if (segment.next != nullptr) segment.next->prefetch();
  if (!at::GradMode::is_enabled()) {
    at::Tensor y = body(x);
    segment.unit.release(/*after_forward=*/false);
    return y;
  }
  at::Tensor y = SubgraphNode::run(
      x, segment.recompute, std::move(body), [segment] { before_backward(segment); },
      [segment] { after_backward(segment); });
  if (!segment.backward_follows) segment.unit.release(/*after_forward=*/true);
  return y;
}

at::Tensor run_recomputed(const at::Tensor& x, Body body) {
  if (!at::GradMode::is_enabled()) {
    const Scope scope(Scope::Run::first, nullptr);
    return body(x);
  }
  return SubgraphNode::run(x, Recompute::full, std::move(body), nullptr, nullptr);
}

}  // namespace archon
