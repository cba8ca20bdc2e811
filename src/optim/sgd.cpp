#include <utility>

#include "archon/optim/optimizer.hpp"
#include "archon/parallel/dispatch.hpp"
#include "ranges.hpp"

namespace archon {
namespace {

template <class Gradient>
void update_range(float* __restrict weight, const Gradient* __restrict grad, int64_t elements,
                  float lr, float grad_scale, float decay) {
  for (int64_t i = 0; i < elements; ++i)
    weight[i] -= lr * (static_cast<float>(grad[i]) * grad_scale + decay * weight[i]);
}

class Sgd final : public Optimizer {
 public:
  Sgd(std::vector<OptimizerTensor> tensors, double weight_decay)
      : Optimizer(std::move(tensors)), weight_decay_(weight_decay) {}

  std::map<std::string, std::map<std::string, at::Tensor>> state() override { return {}; }

 private:
  void update(const std::vector<at::Tensor>& gradients, double lr, double grad_scale) override {
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      if (!tensors_[i].weight.is_cpu()) {
        const double kept = 1.0 - lr * (tensors_[i].decay ? weight_decay_ : 0.0);
        tensors_[i].weight.mul_(kept).add_(gradients[i], -lr * grad_scale);
        continue;
      }
      const float decay = tensors_[i].decay ? static_cast<float>(weight_decay_) : 0.0F;
      float* weight = tensors_[i].weight.mutable_data_ptr<float>();
      dispatch(gradients[i], [&]<class T>(T*) {
        const T* grad = gradients[i].const_data_ptr<T>();
        optim::for_ranges(tensors_[i].weight.numel(), [&](int64_t begin, int64_t end) {
          update_range(weight + begin, grad + begin, end - begin, static_cast<float>(lr),
                       static_cast<float>(grad_scale), decay);
        });
      });
    }
  }

  double weight_decay_;
};

}  // namespace

std::unique_ptr<Optimizer> make_sgd(std::vector<OptimizerTensor> tensors, double weight_decay) {
  return std::make_unique<Sgd>(std::move(tensors), weight_decay);
}

}  // namespace archon
