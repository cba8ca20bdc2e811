#include <utility>

#include "archon/optim/optimizer.hpp"
#include "tensors.hpp"

namespace archon {
namespace {

void update(float* __restrict weight, const float* __restrict grad, int64_t elements, float lr,
            float grad_scale, float decay) {
  for (int64_t i = 0; i < elements; ++i)
    weight[i] -= lr * (grad[i] * grad_scale + decay * weight[i]);
}

class Sgd final : public Optimizer {
 public:
  Sgd(std::vector<OptimizerTensor> tensors, double weight_decay)
      : tensors_(std::move(tensors)), weight_decay_(weight_decay) {
    optim::check(tensors_);
  }

  void step(double lr, double grad_scale) override {
    ++steps_;
    for (OptimizerTensor& tensor : tensors_) {
      const float decay = tensor.decay ? static_cast<float>(weight_decay_) : 0.0F;
      float* weight = tensor.weight.mutable_data_ptr<float>();
      const float* grad = tensor.grad.const_data_ptr<float>();
      optim::for_ranges(tensor.weight.numel(), [&](int64_t begin, int64_t end) {
        update(weight + begin, grad + begin, end - begin, static_cast<float>(lr),
               static_cast<float>(grad_scale), decay);
      });
    }
  }

  std::map<std::string, std::map<std::string, at::Tensor>> state() override { return {}; }

 private:
  std::vector<OptimizerTensor> tensors_;
  double weight_decay_;
};

}  // namespace

std::unique_ptr<Optimizer> make_sgd(std::vector<OptimizerTensor> tensors, double weight_decay) {
  return std::make_unique<Sgd>(std::move(tensors), weight_decay);
}

}  // namespace archon
