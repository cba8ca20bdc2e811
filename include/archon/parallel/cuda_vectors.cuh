#pragma once

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/BFloat16.h>

#include <cstdint>
#include <initializer_list>

/// What CUDA kernels share: where a thread stands, several elements a load, and launches for each
/// element type.
namespace archon::cuda {

constexpr int64_t kVectorBytes = 16;  // the widest load of a thread

template <class T, int kSize>
struct alignas(kSize * sizeof(T)) Vector {
  T values[kSize];
  __device__ float operator[](int i) const { return static_cast<float>(values[i]); }
  __device__ void set(int i, float value) { values[i] = static_cast<T>(value); }
};

template <int kSize, class T>
__device__ Vector<T, kSize> load(const T* x) {
  return *reinterpret_cast<const Vector<T, kSize>*>(x);
}

template <class T, int kSize>
__device__ void store(T* y, const Vector<T, kSize>& vector) {
  *reinterpret_cast<Vector<T, kSize>*>(y) = vector;
}

/// Number of this thread in the whole launch.
__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

/// Blocks that hold so many threads.
inline unsigned blocks_for(int64_t threads, int threads_per_block) {
  return static_cast<unsigned>((threads + threads_per_block - 1) / threads_per_block);
}

/// The stream that computes on the device of x.
inline cudaStream_t stream_of(const at::Tensor& x) {
  return c10::cuda::getCurrentCUDAStream(x.device().index()).stream();
}

/// Calls launch with a null pointer of the type of x, float or BFloat16. (archon::dispatch has messages
/// that nvcc cannot compile; for other types data_ptr throws.)
template <class Launch>
void for_type(const at::Tensor& x, const Launch& launch) {
  if (x.scalar_type() == at::kBFloat16)
    launch(static_cast<c10::BFloat16*>(nullptr));
  else
    launch(static_cast<float*>(nullptr));
}

/// A number that is known to the compiler.
template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

/// Whether rows of `width` elements in all of these can be read as vectors of `bytes`.
inline bool aligned(const std::initializer_list<at::Tensor>& tensors, int64_t width, int64_t bytes) {
  for (const at::Tensor& x : tensors)
    if (width * x.element_size() % bytes != 0 ||
        reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % bytes != 0)
      return false;
  return true;
}

/// Calls launch(null of the tensors' type, Constant) with the widest vectors in which rows of `width`
/// can be read from all of these.
template <class Launch>
void for_vectors(const std::initializer_list<at::Tensor>& tensors, int64_t width,
                 const Launch& launch) {
  for_type(*tensors.begin(), [&]<class T>(T* type) {
    if (aligned(tensors, width, kVectorBytes))
      launch(type, Constant<kVectorBytes / sizeof(T)>());
    else
      launch(type, Constant<1>());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace archon::cuda
