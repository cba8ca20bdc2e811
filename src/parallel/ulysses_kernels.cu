// One thread per element, neighbours in a head next to each other: reads and writes coalesce, and
// the kernel is as fast as memory. Copies go by size, so that one instance serves all types of it.
#include <ATen/Dispatch.h>

#include <algorithm>

#include "archon/parallel/cuda_vectors.cuh"
#include "ulysses_kernels.hpp"
#include "ulysses_layout.hpp"

namespace archon::ulysses {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1 << 16;

int blocks_for(int64_t elements) {
  return static_cast<int>(std::clamp<int64_t>((elements + kThreads - 1) / kThreads, 1, kMostBlocks));
}

__device__ int64_t element_step() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

template <class T>
struct Stacks {
  T *travelling, *own;
  int rank;
  __device__ T* of(int block) const { return block == rank ? own : travelling; }
};

template <class T>
__global__ void pack_heads_kernel(const T* whole, Stacks<T> stacks, HeadBlocks index) {
  for (int64_t i = cuda::thread_index(); i < index.block_elements(); i += element_step())
    stacks.of(index.rank_of(i))[i] = whole[index.whole_of(i)];
}

template <class T>
__global__ void unpack_heads_kernel(T* whole, Stacks<T> stacks, HeadBlocks index) {
  for (int64_t j = cuda::thread_index(); j < index.whole_elements(); j += element_step()) {
    const HeadBlocks::Copies copies = index.copies_of(j);
    if (copies.ranks == 1) {
      whole[j] = stacks.of(copies.rank)[copies.first];
      continue;
    }
    float sum = 0;
    for (int c = 0; c < copies.ranks; ++c)
      sum += static_cast<float>(stacks.of(copies.rank + c)[copies.first + c * copies.stride]);
    whole[j] = static_cast<T>(sum);
  }
}

template <class T>
__global__ void pack_rows_kernel(const T* rows, Stacks<T> stacks, RowParts index) {
  for (int64_t i = cuda::thread_index(); i < index.elements(); i += element_step())
    stacks.of(index.rank_of(i))[i] = rows[index.row_of(i)];
}

template <class T>
__global__ void unpack_rows_kernel(T* rows, Stacks<T> stacks, RowParts index) {
  for (int64_t i = cuda::thread_index(); i < index.elements(); i += element_step())
    rows[index.row_of(i)] = stacks.of(index.rank_of(i))[i];
}

HeadBlocks head_blocks(const at::Tensor& qkv, const UlyssesHeads& layout) {
  return {layout, qkv.size(0), qkv.size(2)};
}

RowParts row_parts(const at::Tensor& rows, const at::Tensor& travelling) {
  const int cp = static_cast<int>(travelling.size(0));
  return {cp, rows.size(0), rows.stride(0) / cp};
}

template <class T>
Stacks<T> stacks_of(const at::Tensor& travelling, const at::Tensor& own, int rank) {
  return {travelling.data_ptr<T>(), own.data_ptr<T>(), rank};
}

/// Calls launch(a pointer of the tensors' type, blocks, stream).
template <class Launch>
void launch_for(const at::Tensor& x, int64_t elements, const Launch& launch) {
  const auto stream = cuda::stream_of(x);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "ulysses", [&] {
    launch(x.data_ptr<scalar_t>(), blocks_for(elements), stream);
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

void pack_heads(const at::Tensor& qkv, const UlyssesHeads& layout, const at::Tensor& travelling,
                const at::Tensor& own, int rank) {
  const HeadBlocks index = head_blocks(qkv, layout);
  launch_for(qkv, index.block_elements(), [&]<class T>(T* whole, int blocks, cudaStream_t stream) {
    pack_heads_kernel<T>
        <<<blocks, kThreads, 0, stream>>>(whole, stacks_of<T>(travelling, own, rank), index);
  });
}

void unpack_heads(const at::Tensor& qkv, const UlyssesHeads& layout, const at::Tensor& travelling,
                  const at::Tensor& own, int rank) {
  const HeadBlocks index = head_blocks(qkv, layout);
  launch_for(qkv, index.whole_elements(), [&]<class T>(T* whole, int blocks, cudaStream_t stream) {
    unpack_heads_kernel<T>
        <<<blocks, kThreads, 0, stream>>>(whole, stacks_of<T>(travelling, own, rank), index);
  });
}

void pack_rows(const at::Tensor& rows, const at::Tensor& travelling, const at::Tensor& own,
               int rank) {
  const RowParts index = row_parts(rows, travelling);
  launch_for(rows, index.elements(), [&]<class T>(T* data, int blocks, cudaStream_t stream) {
    pack_rows_kernel<T>
        <<<blocks, kThreads, 0, stream>>>(data, stacks_of<T>(travelling, own, rank), index);
  });
}

void unpack_rows(const at::Tensor& rows, const at::Tensor& travelling, const at::Tensor& own,
                 int rank) {
  const RowParts index = row_parts(rows, travelling);
  launch_for(rows, index.elements(), [&]<class T>(T* data, int blocks, cudaStream_t stream) {
    unpack_rows_kernel<T>
        <<<blocks, kThreads, 0, stream>>>(data, stacks_of<T>(travelling, own, rank), index);
  });
}

}  // namespace archon::ulysses
