#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace archon {

/// One tensor the optimizer steps: contiguous float32 master weights, possibly empty.
struct OptimizerTensor {
  std::string name;
  at::Tensor weight;
  bool decay = true;
};

/// Steps float32 weights in place.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  /// `gradients`: contiguous, float32 or bfloat16, one for each tensor, in their order and sizes.
  /// `grad_scale` multiplies every gradient on the way (clipping).
  void step(const std::vector<at::Tensor>& gradients, double lr, double grad_scale);
  /// The next step calls `wait` before it changes anything, and forgets it: for who reads weights
  /// and state until then.
  void before_next_step(std::function<void()> wait) { before_step_ = std::move(wait); }
  /// State tensors by name of the weight, then of the state ("exp_avg", "exp_avg_sq").
  virtual std::map<std::string, std::map<std::string, at::Tensor>> state() = 0;

  /// Steps taken, which AdamW's bias correction depends on; a resumed run sets it.
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

 protected:
  /// RuntimeFailure unless the tensors are what an optimizer steps, under names of their own.
  explicit Optimizer(std::vector<OptimizerTensor> tensors);
  /// Called after steps() was raised.
  virtual void update(const std::vector<at::Tensor>& gradients, double lr, double grad_scale) = 0;
  std::vector<OptimizerTensor> tensors_;

 private:
  std::function<void()> before_step_;
  int64_t steps_ = 0;
};

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
};

/// AdamW with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101), float32 state.
std::unique_ptr<Optimizer> make_adamw(std::vector<OptimizerTensor> tensors,
                                      const AdamWOptions& options);
/// Plain stochastic gradient descent with decoupled weight decay: w -= lr·(g + decay·w).
std::unique_ptr<Optimizer> make_sgd(std::vector<OptimizerTensor> tensors, double weight_decay);

}  // namespace archon
