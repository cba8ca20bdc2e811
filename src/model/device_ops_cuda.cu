// Rows of activations are read 16 bytes at a time where they allow it; heads, which are short, by some
// lanes of a warp each. Gradients of weights are summed by blocks of kBlockRows rows and the blocks' sums by
// LibTorch, in orders that no scheduling changes: the same inputs give the same bits.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>

#include "archon/parallel/cuda_vectors.cuh"
#include "device_ops_cuda.hpp"

namespace archon::device_ops::cuda {
namespace {

using archon::cuda::for_type;
using archon::cuda::for_vectors;
using archon::cuda::load;
using archon::cuda::store;
using archon::cuda::stream_of;
using archon::cuda::thread_index;
using archon::cuda::Vector;
using kernels::HeadLayout;
using kernels::kMaxHeadDim;

constexpr int kWarp = 32, kThreads = 256, kWarps = kThreads / kWarp;
constexpr int64_t kBlockRows = 16;  // whose weight gradients one block of threads sums

// --- threads together --------------------------------------------------------------------------

/// Every one of kLanes neighbours gets their sum.
template <int kLanes = kWarp>
__device__ float lanes_sum(float value) {
  for (int distance = kLanes / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(0xffffffff, value, distance);
  return value;
}

/// Every thread of the block gets the sum.
__device__ float block_sum(float value) {
  __shared__ float of_warps[kWarps];
  value = lanes_sum(value);
  __syncthreads();  // all have read the sum before
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < kWarps; ++warp) sum += of_warps[warp];
  return sum;
}

// --- norms of rows: one block of threads a row -------------------------------------------------

template <class T, int kSize>
__global__ void rms_norm_kernel(T* y, float* inv_rms, const T* x, const T* weight, int64_t width,
                                float eps) {
  const int64_t row = blockIdx.x, begin = threadIdx.x * kSize, step = kThreads * kSize;
  x += row * width;
  y += row * width;
  float sum = 0;
  for (int64_t i = begin; i < width; i += step) {
    const auto a = load<kSize>(x + i);
    for (int j = 0; j < kSize; ++j) sum += a[j] * a[j];
  }
  const float inv = 1.0F / sqrtf(block_sum(sum) / static_cast<float>(width) + eps);
  if (threadIdx.x == 0) inv_rms[row] = inv;
  for (int64_t i = begin; i < width; i += step) {
    const auto a = load<kSize>(x + i);
    Vector<T, kSize> result;
    for (int j = 0; j < kSize; ++j) result.set(j, static_cast<float>(weight[i + j]) * (a[j] * inv));
    store(y + i, result);
  }
}

/// weight_sums [blocks, width]. With x̂ = x / rms:
/// dx = (w·dy − x̂ · mean(w·dy·x̂)) / rms,  dw = Σ dy·x̂
template <class T, int kSize>
__global__ void rms_norm_backward_kernel(T* x_grad, float* weight_sums, const T* y_grad, const T* x,
                                         const float* inv_rms, const T* weight, int64_t rows,
                                         int64_t width) {
  // A thread's own columns, kThreads apart so that neighbours use different banks.
  extern __shared__ float sums[];
  const int64_t begin = threadIdx.x * kSize, step = kThreads * kSize;
  const auto sum_of = [&](int64_t i, int j) -> float& {
    return sums[i - begin + j * kThreads + threadIdx.x];
  };
  for (int64_t i = begin; i < width; i += step)
    for (int j = 0; j < kSize; ++j) sum_of(i, j) = 0;
  const int64_t first = blockIdx.x * kBlockRows, last = min(first + kBlockRows, rows);
  for (int64_t row = first; row < last; ++row) {
    const T *a = x + row * width, *dy = y_grad + row * width;
    const float inv = inv_rms[row];
    float dot = 0;
    for (int64_t i = begin; i < width; i += step) {
      const auto as = load<kSize>(a + i), dys = load<kSize>(dy + i);
      for (int j = 0; j < kSize; ++j) dot += static_cast<float>(weight[i + j]) * dys[j] * as[j];
    }
    const float mean = block_sum(dot) * inv / static_cast<float>(width);
    for (int64_t i = begin; i < width; i += step) {
      const auto as = load<kSize>(a + i), dys = load<kSize>(dy + i);
      Vector<T, kSize> result;
      for (int j = 0; j < kSize; ++j) {
        const float normed = as[j] * inv;
        sum_of(i, j) += dys[j] * normed;
        result.set(j, (static_cast<float>(weight[i + j]) * dys[j] - normed * mean) * inv);
      }
      store(x_grad + row * width + i, result);
    }
  }
  for (int64_t i = begin; i < width; i += step)
    for (int j = 0; j < kSize; ++j) weight_sums[blockIdx.x * width + i + j] = sum_of(i, j);
}

// --- SwiGLU: one thread a vector ---------------------------------------------------------------

__device__ float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }

/// Gate and up of the same columns of a row.
struct GatePlace {
  int64_t gate, up;
  __device__ GatePlace(int64_t i, int64_t width)
      : gate(i / width * 2 * width + i % width), up(gate + width) {}
};

template <class T, int kSize>
__global__ void swiglu_kernel(T* y, const T* gate_up, int64_t elements, int64_t width) {
  const int64_t i = thread_index() * kSize;
  if (i >= elements) return;
  const GatePlace place(i, width);
  const auto gate = load<kSize>(gate_up + place.gate), up = load<kSize>(gate_up + place.up);
  Vector<T, kSize> result;
  for (int j = 0; j < kSize; ++j) result.set(j, gate[j] * sigmoid(gate[j]) * up[j]);
  store(y + i, result);
}

template <class T, int kSize>
__global__ void swiglu_backward_kernel(T* grad, const T* y_grad, const T* gate_up, int64_t elements,
                                       int64_t width) {
  const int64_t i = thread_index() * kSize;
  if (i >= elements) return;
  const GatePlace place(i, width);
  const auto gate = load<kSize>(gate_up + place.gate), up = load<kSize>(gate_up + place.up),
             dy = load<kSize>(y_grad + i);
  Vector<T, kSize> gate_grad, up_grad;
  for (int j = 0; j < kSize; ++j) {
    const float s = sigmoid(gate[j]);
    gate_grad.set(j, dy[j] * up[j] * s * (1.0F + gate[j] * (1.0F - s)));
    up_grad.set(j, dy[j] * gate[j] * s);
  }
  store(grad + place.gate, gate_grad);
  store(grad + place.up, up_grad);
}

// --- norm and rotation of heads: some lanes of a warp a head -----------------------------------

/// Where a head of the stream [tokens, heads + 2·kv_heads] is.
struct Head {
  int64_t token, head;
  bool query, value;
  __device__ Head(int64_t row, const HeadLayout& layout)
      : token(row / layout.total()),
        head(row % layout.total()),
        query(head < layout.heads),
        value(head >= layout.heads + layout.kv_heads) {}
  __device__ int64_t of_turned(const HeadLayout& layout) const {
    return token * (layout.heads + layout.kv_heads) + head;
  }
};

/// How kLanes threads share a head: each has kSteps vectors of kSize coordinates in its first half,
/// and the same in the second, which the rotation pairs with them.
template <int kLanes, int kSize, int kSteps>
struct HeadShares {
  static constexpr int lanes = kLanes, size = kSize, count = kSize * kSteps;

  static __device__ int lane() { return static_cast<int>(threadIdx.x % kLanes); }
  static __device__ int group() { return static_cast<int>(threadIdx.x / kLanes); }

  /// Calls body(number among this lane's coordinates of a half, coordinate) for each vector.
  template <class Body>
  static __device__ void each(int64_t half, const Body& body) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
      if (const int64_t i = (step * kLanes + lane()) * kSize; i < half) body(step * kSize, i);
  }

  template <class T>
  static __device__ void read(float (&mine)[count], const T* x, int64_t half) {
    each(half, [&](int first, int64_t i) {
      const auto vector = load<kSize>(x + i);
#pragma unroll
      for (int j = 0; j < kSize; ++j) mine[first + j] = vector[j];
    });
  }

  template <class T>
  static __device__ void write(T* y, const float (&mine)[count], int64_t half) {
    each(half, [&](int first, int64_t i) {
      Vector<T, kSize> vector;
#pragma unroll
      for (int j = 0; j < kSize; ++j) vector.set(j, mine[first + j]);
      store(y + i, vector);
    });
  }
};

/// A lane's coordinates of both halves of a head, or of a weight.
template <class Shares>
struct Halves {
  float a[Shares::count] = {}, b[Shares::count] = {};

  template <class T>
  __device__ static Halves of(const T* x, int64_t half) {
    Halves result;
    Shares::read(result.a, x, half);
    Shares::read(result.b, x + half, half);
    return result;
  }
  template <class T>
  __device__ void write(T* y, int64_t half) const {
    Shares::write(y, a, half);
    Shares::write(y + half, b, half);
  }
  __device__ void scale(float factor) {
#pragma unroll
    for (int i = 0; i < Shares::count; ++i) a[i] *= factor, b[i] *= factor;
  }
  __device__ void scale(const Halves& factors) {
#pragma unroll
    for (int i = 0; i < Shares::count; ++i) a[i] *= factors.a[i], b[i] *= factors.b[i];
  }
  /// this += x · y · factor
  __device__ void add_product(const Halves& x, const Halves& y, float factor) {
#pragma unroll
    for (int i = 0; i < Shares::count; ++i)
      a[i] += x.a[i] * y.a[i] * factor, b[i] += x.b[i] * y.b[i] * factor;
  }
  /// Over the whole head.
  __device__ float dot(const Halves& other) const {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < Shares::count; ++i) sum += a[i] * other.a[i] + b[i] * other.b[i];
    return lanes_sum<Shares::lanes>(sum);
  }
  /// Turns each pair by the angle of cos and sin [half]; `direction` −1: back.
  __device__ void turn(const float* cos, const float* sin, int64_t half, float direction) {
    float c[Shares::count] = {}, s[Shares::count] = {};
    Shares::read(c, cos, half);
    Shares::read(s, sin, half);
#pragma unroll
    for (int i = 0; i < Shares::count; ++i) {
      const float x = a[i], y = b[i], sine = direction * s[i];
      a[i] = x * c[i] - y * sine;
      b[i] = y * c[i] + x * sine;
    }
  }
};

template <class Shares, class T>
__global__ void norm_rotary_kernel(T* y, float* inv_rms, const T* x, const T* query_norm,
                                   const T* key_norm, const float* cos, const float* sin,
                                   int64_t rows, HeadLayout layout, float eps) {
  const int64_t row = thread_index() / Shares::lanes;
  // All lanes of a warp take part in sums; those behind the end do the last row's work again.
  const Head head(min(row, rows - 1), layout);
  const int64_t d = layout.head_dim, half = d / 2, begin = min(row, rows - 1) * d;
  auto values = Halves<Shares>::of(x + begin, half);
  const T* weight = head.query ? query_norm : key_norm;
  if (query_norm != nullptr) {
    const float mean = values.dot(values) / static_cast<float>(d);
    const float inv = head.value ? 1.0F : 1.0F / sqrtf(mean + eps);
    if (!head.value) {
      values.scale(inv);
      values.scale(Halves<Shares>::of(weight, half));
      if (Shares::lane() == 0) inv_rms[head.of_turned(layout)] = inv;
    }
  }
  if (!head.value) values.turn(cos + head.token * half, sin + head.token * half, half, 1.0F);
  if (row < rows) values.write(y + begin, half);
}

/// weight_sums [blocks, 2, head_dim], of queries and keys.
template <class Shares, class T>
__global__ void norm_rotary_backward_kernel(T* x_grad, float* weight_sums, const T* y_grad,
                                            const T* x, const float* inv_rms, const T* query_norm,
                                            const T* key_norm, const float* cos, const float* sin,
                                            int64_t tokens, HeadLayout layout) {
  constexpr int kGroups = kThreads / Shares::lanes;
  const int64_t d = layout.head_dim, half = d / 2;
  Halves<Shares> query_weight, key_weight, query_sums, key_sums;
  if (query_norm != nullptr) {
    query_weight = Halves<Shares>::of(query_norm, half);
    key_weight = Halves<Shares>::of(key_norm, half);
  }
  const int64_t first = blockIdx.x * kBlockRows * layout.total();
  const int64_t last = min(first + kBlockRows * layout.total(), tokens * layout.total());
  // As many turns for every group: all lanes of a warp take part in sums.
  for (int64_t turn = first; turn < last; turn += kGroups) {
    const bool inside = turn + Shares::group() < last;
    const int64_t row = inside ? turn + Shares::group() : last - 1;
    const Head head(row, layout);
    auto grad = Halves<Shares>::of(y_grad + row * d, half);
    if (!head.value) grad.turn(cos + head.token * half, sin + head.token * half, half, -1.0F);
    if (query_norm != nullptr) {
      const float inv = head.value ? 0.0F : inv_rms[head.of_turned(layout)];
      auto normed = Halves<Shares>::of(x + row * d, half);
      normed.scale(inv);
      const float counts = inside && !head.value ? 1.0F : 0.0F;
      query_sums.add_product(grad, normed, head.query ? counts : 0.0F);
      key_sums.add_product(grad, normed, head.query ? 0.0F : counts);
      if (!head.value) grad.scale(head.query ? query_weight : key_weight);
      const float mean = grad.dot(normed) / static_cast<float>(d);
      if (!head.value) {
        normed.scale(-mean);
#pragma unroll
        for (int i = 0; i < Shares::count; ++i)
          grad.a[i] += normed.a[i], grad.b[i] += normed.b[i];
        grad.scale(inv);
      }
    }
    if (inside) grad.write(x_grad + row * d, half);
  }
  if (query_norm == nullptr) return;
  __shared__ float sums[2 * kMaxHeadDim];
  for (int group = 0; group < kGroups; ++group) {  // one after the other
    const auto add = [&](float* to, const float(&part)[Shares::count]) {
      Shares::each(half, [&](int mine, int64_t i) {
#pragma unroll
        for (int j = 0; j < Shares::size; ++j)
          to[i + j] = (group == 0 ? 0.0F : to[i + j]) + part[mine + j];
      });
    };
    if (group == Shares::group()) {
      add(sums, query_sums.a);
      add(sums + half, query_sums.b);
      add(sums + d, key_sums.a);
      add(sums + d + half, key_sums.b);
    }
    __syncthreads();
  }
  for (int64_t i = threadIdx.x; i < 2 * d; i += kThreads)
    weight_sums[blockIdx.x * 2 * d + i] = sums[i];
}

// --- launching ---------------------------------------------------------------------------------

int64_t blocks_of(int64_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }
unsigned grid(int64_t threads) { return archon::cuda::blocks_for(threads, kThreads); }

template <class T>
const T* data_or_null(const at::Tensor& x) {
  return x.defined() ? x.const_data_ptr<T>() : nullptr;
}

/// Calls launch(null of the tensors' type, HeadShares) with those that suit the heads: the usual widths
/// take vectors of four, where all of these tensors and the rotary table allow them.
template <class Launch>
void for_heads(const std::initializer_list<at::Tensor>& tensors, const at::Tensor& cos,
               const at::Tensor& sin, int64_t head_dim, const Launch& launch) {
  const int64_t half = head_dim / 2;
  for_type(*tensors.begin(), [&]<class T>(T* type) {
    const bool aligned = archon::cuda::aligned(tensors, half, 4 * sizeof(T)) &&
                         archon::cuda::aligned({cos, sin}, half, 4 * sizeof(float));
    if (aligned && half == 32)
      launch(type, HeadShares<8, 4, 1>());
    else if (aligned && half == 64)
      launch(type, HeadShares<16, 4, 1>());
    else if (aligned && half == 128)
      launch(type, HeadShares<kWarp, 4, 1>());
    else if (half <= 2 * kWarp)
      launch(type, HeadShares<kWarp, 1, 2>());
    else
      launch(type, HeadShares<kWarp, 1, kMaxHeadDim / 2 / kWarp>());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

at::Tensor or_of(const at::Tensor& x, const at::Tensor& other) { return x.defined() ? x : other; }

}  // namespace

Normed rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const int64_t width = weight.size(0), rows = x.numel() / width;
  const Normed result{at::empty_like(x), at::empty({rows}, x.options().dtype(at::kFloat))};
  if (rows == 0) return result;
  for_vectors({x, result.y}, width, [&]<class T, class Size>(T*, Size) {
    rms_norm_kernel<T, Size::value><<<static_cast<unsigned>(rows), kThreads, 0, stream_of(x)>>>(
        result.y.data_ptr<T>(), result.inv_rms.data_ptr<float>(), x.const_data_ptr<T>(),
        weight.const_data_ptr<T>(), width, static_cast<float>(eps));
  });
  return result;
}

NormGradients rms_norm_backward(const at::Tensor& y_grad, const at::Tensor& x,
                                const at::Tensor& inv_rms, const at::Tensor& weight) {
  const int64_t width = weight.size(0), rows = x.numel() / width;
  const at::Tensor x_grad = at::empty_like(x);
  const at::Tensor sums = at::empty({blocks_of(rows), width}, inv_rms.options());
  if (rows == 0) return {x_grad, sums.sum(0)};
  for_vectors({x, x_grad, y_grad}, width, [&]<class T, class Size>(T*, Size) {
    const auto kernel = rms_norm_backward_kernel<T, Size::value>;
    const int64_t step = int64_t{kThreads} * Size::value;
    const auto shared = static_cast<int>((width + step - 1) / step * step * sizeof(float));
    C10_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    kernel<<<static_cast<unsigned>(blocks_of(rows)), kThreads, shared, stream_of(x)>>>(
        x_grad.data_ptr<T>(), sums.data_ptr<float>(), y_grad.const_data_ptr<T>(),
        x.const_data_ptr<T>(), inv_rms.const_data_ptr<float>(), weight.const_data_ptr<T>(), rows,
        width);
  });
  return {x_grad, sums.sum(0)};
}

at::Tensor swiglu(const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  at::Tensor y = at::empty({gate_up.size(0), width}, gate_up.options());
  if (y.numel() == 0) return y;
  for_vectors({gate_up, y}, width, [&]<class T, class Size>(T*, Size) {
    swiglu_kernel<T, Size::value>
        <<<grid(y.numel() / Size::value), kThreads, 0, stream_of(y)>>>(
            y.data_ptr<T>(), gate_up.const_data_ptr<T>(), y.numel(), width);
  });
  return y;
}

at::Tensor swiglu_backward(const at::Tensor& y_grad, const at::Tensor& gate_up) {
  at::Tensor grad = at::empty_like(gate_up);
  const int64_t width = gate_up.size(1) / 2, elements = y_grad.numel();
  if (elements == 0) return grad;
  for_vectors({gate_up, grad, y_grad}, width, [&]<class T, class Size>(T*, Size) {
    swiglu_backward_kernel<T, Size::value>
        <<<grid(elements / Size::value), kThreads, 0, stream_of(grad)>>>(
            grad.data_ptr<T>(), y_grad.const_data_ptr<T>(), gate_up.const_data_ptr<T>(), elements,
            width);
  });
  return grad;
}

Normed norm_rotary(const at::Tensor& qkv, const at::Tensor& query_norm, const at::Tensor& key_norm,
                   const at::Tensor& cos, const at::Tensor& sin, const HeadLayout& layout,
                   double eps) {
  Normed result{at::empty_like(qkv), {}};
  const int64_t tokens = qkv.size(0), rows = tokens * layout.total();
  if (query_norm.defined())
    result.inv_rms = at::empty({tokens, layout.heads + layout.kv_heads}, cos.options());
  if (rows == 0) return result;
  for_heads({qkv, result.y, or_of(query_norm, qkv), or_of(key_norm, qkv)}, cos, sin,
            layout.head_dim, [&]<class T, class Shares>(T*, Shares) {
              norm_rotary_kernel<Shares, T>
                  <<<grid(rows * Shares::lanes), kThreads, 0, stream_of(qkv)>>>(
                      result.y.data_ptr<T>(),
                      result.inv_rms.defined() ? result.inv_rms.data_ptr<float>() : nullptr,
                      qkv.const_data_ptr<T>(), data_or_null<T>(query_norm),
                      data_or_null<T>(key_norm), cos.const_data_ptr<float>(),
                      sin.const_data_ptr<float>(), rows, layout, static_cast<float>(eps));
            });
  return result;
}

NormRotaryGradients norm_rotary_backward(const at::Tensor& y_grad, const at::Tensor& qkv,
                                         const at::Tensor& inv_rms, const at::Tensor& query_norm,
                                         const at::Tensor& key_norm, const at::Tensor& cos,
                                         const at::Tensor& sin, const HeadLayout& layout) {
  const int64_t tokens = y_grad.size(0), d = layout.head_dim;
  const at::Tensor x_grad = at::empty_like(y_grad);
  at::Tensor sums;
  if (query_norm.defined()) sums = at::empty({blocks_of(tokens), 2, d}, cos.options());
  if (tokens > 0)
    for_heads({y_grad, x_grad, or_of(qkv, y_grad), or_of(query_norm, y_grad),
               or_of(key_norm, y_grad)},
              cos, sin, d, [&]<class T, class Shares>(T*, Shares) {
                norm_rotary_backward_kernel<Shares, T>
                    <<<static_cast<unsigned>(blocks_of(tokens)), kThreads, 0, stream_of(y_grad)>>>(
                        x_grad.data_ptr<T>(), sums.defined() ? sums.data_ptr<float>() : nullptr,
                        y_grad.const_data_ptr<T>(), data_or_null<T>(qkv),
                        data_or_null<float>(inv_rms), data_or_null<T>(query_norm),
                        data_or_null<T>(key_norm), cos.const_data_ptr<float>(),
                        sin.const_data_ptr<float>(), tokens, layout);
              });
  if (!sums.defined()) return {x_grad, {}, {}};
  const at::Tensor whole = sums.sum(0);
  return {x_grad, whole.select(0, 0), whole.select(0, 1)};
}

}  // namespace archon::device_ops::cuda
