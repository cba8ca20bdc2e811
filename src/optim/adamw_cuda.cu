// One pass: each of the four arrays is read once and the three that change are written once.
#include "adamw_cuda.hpp"
#include "archon/parallel/cuda_vectors.cuh"

namespace archon::optim::cuda {
namespace {

using archon::cuda::load;
using archon::cuda::store;

constexpr int kThreads = 256;
constexpr int kWidth = 4;  // elements of a thread where arrays are aligned

template <class T, int kSize>
__global__ void update_kernel(float* weight, const T* grad, float* exp_avg, float* exp_avg_sq,
                              int64_t elements, AdamWStep step) {
  const int64_t i = archon::cuda::thread_index() * kSize;
  if (i >= elements) return;
  const auto g = load<kSize>(grad + i);
  auto w = load<kSize>(weight + i), m = load<kSize>(exp_avg + i), v = load<kSize>(exp_avg_sq + i);
  for (int j = 0; j < kSize; ++j)
    optim::adamw_update(w.values[j], g[j], m.values[j], v.values[j], step);
  store(weight + i, w);
  store(exp_avg + i, m);
  store(exp_avg_sq + i, v);
}

}  // namespace

void adamw_update(const at::Tensor& weight, const at::Tensor& grad, const at::Tensor& exp_avg,
                  const at::Tensor& exp_avg_sq, const AdamWStep& step) {
  const int64_t elements = weight.numel();
  if (elements == 0) return;
  archon::cuda::for_type(grad, [&]<class T>(T*) {
    const auto launch = [&]<int kSize>(archon::cuda::Constant<kSize>) {
      update_kernel<T, kSize>
          <<<archon::cuda::blocks_for(elements / kSize, kThreads), kThreads, 0,
             archon::cuda::stream_of(weight)>>>(
              weight.data_ptr<float>(), grad.const_data_ptr<T>(), exp_avg.data_ptr<float>(),
              exp_avg_sq.data_ptr<float>(), elements, step);
    };
    if (archon::cuda::aligned({weight, exp_avg, exp_avg_sq}, elements, kWidth * sizeof(float)) &&
        archon::cuda::aligned({grad}, elements, kWidth * sizeof(T)))
      launch(archon::cuda::Constant<kWidth>());
    else
      launch(archon::cuda::Constant<1>());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace archon::optim::cuda
