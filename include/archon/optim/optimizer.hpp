#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace archon {

/// One tensor the optimizer steps: contiguous float32 master weights and gradient of the same
/// shape, possibly empty.
struct OptimizerTensor {
  std::string name;
  at::Tensor weight;
  at::Tensor grad;
  bool decay = true;
};

/// Steps float32 weights in place. `grad_scale` multiplies every gradient on the way (clipping).
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  virtual void step(double lr, double grad_scale) = 0;
  /// State tensors by name of the weight, then of the state ("exp_avg", "exp_avg_sq").
  virtual std::map<std::string, std::map<std::string, at::Tensor>> state() = 0;

  /// Steps taken, which AdamW's bias correction depends on; a resumed run sets it.
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

 protected:
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
