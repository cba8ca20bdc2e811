#include "archon/parallel/accumulate.hpp"

#include <ATen/Parallel.h>

#include "archon/base/error.hpp"
#include "archon/base/simd.hpp"
#include "archon/parallel/dispatch.hpp"

namespace archon {
namespace {

ARCHON_SIMD_CLONES void add_range(float* __restrict sum, const float* __restrict part,
                                  int64_t count) {
  for (int64_t i = 0; i < count; ++i) sum[i] += part[i];
}

ARCHON_SIMD_CLONES void add_range(float* __restrict sum, const c10::BFloat16* __restrict part,
                                  int64_t count) {
  for (int64_t i = 0; i < count; ++i) sum[i] += static_cast<float>(part[i]);
}

}  // namespace

void accumulate(const at::Tensor& sum, const at::Tensor& part) {
  constexpr int64_t kGrain = 1 << 15;
  ARCHON_EXPECT(sum.numel() == part.numel() && sum.is_contiguous() && part.is_contiguous());
  if (!sum.is_cpu()) {
    sum.add_(part.view_as(sum));
    return;
  }
  dispatch(part, [&]<class T>(T*) {
    auto* total = sum.data_ptr<float>();
    const T* more = part.const_data_ptr<T>();
    at::parallel_for(0, part.numel(), kGrain, [&](int64_t begin, int64_t end) {
      add_range(total + begin, more + begin, end - begin);
    });
  });
}

}  // namespace archon
