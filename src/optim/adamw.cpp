#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <utility>

#include "adamw_cuda.hpp"
#include "archon/base/error.hpp"
#include "archon/base/simd.hpp"
#include "archon/optim/optimizer.hpp"
#include "archon/parallel/dispatch.hpp"
#include "ranges.hpp"

namespace archon {
namespace {

using optim::AdamWStep;

// One pass: each of the four arrays is read once and the three that change are written once.
template <class Gradient>
ARCHON_INLINE void update_each(float* __restrict weight, const Gradient* __restrict grad,
                               float* __restrict exp_avg, float* __restrict exp_avg_sq,
                               int64_t elements, const AdamWStep& given) {
  const AdamWStep step = given;
  for (int64_t i = 0; i < elements; ++i)
    optim::adamw_update(weight[i], static_cast<float>(grad[i]), exp_avg[i], exp_avg_sq[i], step);
}

ARCHON_SIMD_CLONES void update_range(float* weight, const float* grad, float* exp_avg,
                                     float* exp_avg_sq, int64_t elements, const AdamWStep& step) {
  update_each(weight, grad, exp_avg, exp_avg_sq, elements, step);
}

ARCHON_SIMD_CLONES void update_range(float* weight, const c10::BFloat16* grad, float* exp_avg,
                                     float* exp_avg_sq, int64_t elements, const AdamWStep& step) {
  update_each(weight, grad, exp_avg, exp_avg_sq, elements, step);
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
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const AdamWStep step = step_of(lr, grad_scale, tensors_[i].decay);
      if constexpr (kCudaBuild)
        if (tensors_[i].weight.is_cuda()) {
          optim::cuda::adamw_update(tensors_[i].weight, gradients[i], moments_[i].exp_avg,
                                    moments_[i].exp_avg_sq, step);
          continue;
        }
      float* weight = tensors_[i].weight.mutable_data_ptr<float>();
      float* exp_avg = moments_[i].exp_avg.mutable_data_ptr<float>();
      float* exp_avg_sq = moments_[i].exp_avg_sq.mutable_data_ptr<float>();
      dispatch(gradients[i], [&]<class T>(T*) {
        const T* grad = gradients[i].const_data_ptr<T>();
        optim::for_ranges(tensors_[i].weight.numel(), [&](int64_t begin, int64_t end) {
          update_range(weight + begin, grad + begin, exp_avg + begin, exp_avg_sq + begin,
                       end - begin, step);
        });
      });
    }
  }

  // In double, rounded once: 1 - beta2^t cancels in float32 at the first steps.
  AdamWStep step_of(double lr, double grad_scale, bool decay) const {
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
