#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <utility>

#include "archon/base/error.hpp"
#include "archon/base/simd.hpp"
#include "archon/optim/optimizer.hpp"
#include "archon/parallel/dispatch.hpp"
#include "ranges.hpp"

namespace archon {
namespace {

// What one step does to every element, bias corrections folded in.
struct Coefficients {
  float grad_scale;
  float keep;  // 1 - lr·decay
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float step_size;          // lr / (1 - beta1^t)
  float inverse_root_bias;  // 1 / sqrt(1 - beta2^t)
  float eps;
};

// One pass: each of the four arrays is read once and the three that change are written once.
template <class Gradient>
ARCHON_INLINE void update_each(float* __restrict weight, const Gradient* __restrict grad,
                               float* __restrict exp_avg, float* __restrict exp_avg_sq,
                               int64_t elements, const Coefficients& given) {
  const Coefficients c = given;
  for (int64_t i = 0; i < elements; ++i) {
    const float g = static_cast<float>(grad[i]) * c.grad_scale;
    const float m = exp_avg[i] + (g - exp_avg[i]) * c.one_minus_beta1;
    const float v = exp_avg_sq[i] * c.beta2 + g * g * c.one_minus_beta2;
    const float denominator = std::sqrt(v) * c.inverse_root_bias + c.eps;
    weight[i] = weight[i] * c.keep - c.step_size * m / denominator;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
  }
}

ARCHON_SIMD_CLONES void update_range(float* weight, const float* grad, float* exp_avg,
                                     float* exp_avg_sq, int64_t elements, const Coefficients& c) {
  update_each(weight, grad, exp_avg, exp_avg_sq, elements, c);
}

ARCHON_SIMD_CLONES void update_range(float* weight, const c10::BFloat16* grad, float* exp_avg,
                                     float* exp_avg_sq, int64_t elements, const Coefficients& c) {
  update_each(weight, grad, exp_avg, exp_avg_sq, elements, c);
}

class AdamW final : public Optimizer {
 public:
  AdamW(std::vector<OptimizerTensor> tensors, const AdamWOptions& options)
      : Optimizer(std::move(tensors)), options_(options) {
    for (const OptimizerTensor& tensor : tensors_)
      moments_.push_back({at::zeros_like(tensor.weight), at::zeros_like(tensor.weight)});
  }

  std::map<std::string, std::map<std::string, at::Tensor>> state() override {
    std::map<std::string, std::map<std::string, at::Tensor>> state;
    for (std::size_t i = 0; i < tensors_.size(); ++i)
      state[tensors_[i].name] = {{"exp_avg", moments_[i].exp_avg},
                                 {"exp_avg_sq", moments_[i].exp_avg_sq}};
    return state;
  }

 private:
  struct Moments {
    at::Tensor exp_avg, exp_avg_sq;
  };

  void update(const std::vector<at::Tensor>& gradients, double lr, double grad_scale) override {
    if (!tensors_.empty() && !tensors_.front().weight.is_cpu())
      return update_on_device(gradients, lr, grad_scale);
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const Coefficients c = coefficients(lr, grad_scale, tensors_[i].decay);
      float* weight = tensors_[i].weight.mutable_data_ptr<float>();
      float* exp_avg = moments_[i].exp_avg.mutable_data_ptr<float>();
      float* exp_avg_sq = moments_[i].exp_avg_sq.mutable_data_ptr<float>();
      dispatch(gradients[i], [&]<class T>(T*) {
        const T* grad = gradients[i].const_data_ptr<T>();
        optim::for_ranges(tensors_[i].weight.numel(), [&](int64_t begin, int64_t end) {
          update_range(weight + begin, grad + begin, exp_avg + begin, exp_avg_sq + begin,
                       end - begin, c);
        });
      });
    }
  }

  // LibTorch's fused kernel, one launch for many tensors. It divides gradients by grad_scale, in
  // place, and takes the number of steps as a tensor.
  void update_on_device(const std::vector<at::Tensor>& gradients, double lr, double grad_scale) {
    for (const bool decay : {true, false}) {
      std::vector<at::Tensor> weights, grads, exp_avg, exp_avg_sq;
      for (std::size_t i = 0; i < tensors_.size(); ++i) {
        if (tensors_[i].decay != decay || gradients[i].numel() == 0) continue;
        weights.push_back(tensors_[i].weight);
        grads.push_back(gradients[i].to(at::kFloat));
        exp_avg.push_back(moments_[i].exp_avg);
        exp_avg_sq.push_back(moments_[i].exp_avg_sq);
      }
      if (weights.empty()) continue;
      const auto options = weights.front().options();
      const std::vector<at::Tensor> steps(
          weights.size(), at::full({}, static_cast<double>(this->steps()), options));
      at::_fused_adamw_(weights, grads, exp_avg, exp_avg_sq, /*max_exp_avg_sqs=*/{}, steps, lr,
                        options_.beta1, options_.beta2, decay ? options_.weight_decay : 0.0,
                        options_.eps, /*amsgrad=*/false, /*maximize=*/false,
                        at::full({}, 1.0 / grad_scale, options));
    }
  }

  // In double, rounded once: 1 - beta2^t cancels in float32 at the first steps.
  Coefficients coefficients(double lr, double grad_scale, bool decay) const {
    const double t = static_cast<double>(steps());
    const double bias1 = 1.0 - std::pow(options_.beta1, t);
    const double bias2 = 1.0 - std::pow(options_.beta2, t);
    return {.grad_scale = static_cast<float>(grad_scale),
            .keep = static_cast<float>(1.0 - (decay ? lr * options_.weight_decay : 0.0)),
            .one_minus_beta1 = static_cast<float>(1.0 - options_.beta1),
            .beta2 = static_cast<float>(options_.beta2),
            .one_minus_beta2 = static_cast<float>(1.0 - options_.beta2),
            .step_size = static_cast<float>(lr / bias1),
            .inverse_root_bias = static_cast<float>(1.0 / std::sqrt(bias2)),
            .eps = static_cast<float>(options_.eps)};
  }

  AdamWOptions options_;
  std::vector<Moments> moments_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adamw(std::vector<OptimizerTensor> tensors,
                                      const AdamWOptions& options) {
  ARCHON_VALIDATE(
      options.beta1 >= 0.0 && options.beta1 < 1.0 && options.beta2 >= 0.0 && options.beta2 < 1.0,
      "beta1 {} and beta2 {} do not suit AdamW: they are shares of the past kept in "
      "running means; choose both from 0 up to, but not including, 1",
      options.beta1, options.beta2);
  return std::make_unique<AdamW>(std::move(tensors), options);
}

}  // namespace archon
