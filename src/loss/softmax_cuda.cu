// One block per token: its threads take neighbouring vectors of logits in turn, so that reads coalesce,
// and the logits are read once for the statistics and once for the gradient, which takes their place.
#include "archon/parallel/cuda_vectors.cuh"
#include "softmax_cuda.hpp"
#include "softmax_math.hpp"

namespace archon::softmax_rows::cuda {
namespace {

using archon::cuda::load;
using archon::cuda::store;
using archon::cuda::stream_of;
using archon::cuda::Vector;
using kernels::LogitRow;
using kernels::RowGradient;
using kernels::SoftmaxStats;

constexpr int kWarp = 32;
constexpr int kThreads = 512;

__device__ SoftmaxStats from_lane(const SoftmaxStats& stats, int distance) {
  return {__shfl_down_sync(0xffffffff, stats.max, distance),
          __shfl_down_sync(0xffffffff, stats.sum, distance),
          __shfl_down_sync(0xffffffff, stats.weighted, distance), 0};
}

/// Thread 0's result is that of all threads of the warp.
__device__ SoftmaxStats merge_warp(SoftmaxStats stats, float scale) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    stats = merge(stats, from_lane(stats, distance), scale);
  return stats;
}

/// Thread 0's result is that of the block.
__device__ SoftmaxStats merge_block(SoftmaxStats stats, float scale) {
  __shared__ SoftmaxStats of_warps[kThreads / kWarp];
  const int warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  stats = merge_warp(stats, scale);
  if (lane == 0) of_warps[warp] = stats;
  __syncthreads();
  if (warp != 0) return stats;
  stats = lane < kThreads / kWarp ? of_warps[lane] : SoftmaxStats{-INFINITY, 0, 0, 0};
  return merge_warp(stats, scale);
}

template <class T, int kSize>
__global__ void statistics_kernel(LogitRow<const T> first, const int64_t* labels,
                                  SoftmaxStats* stats) {
  const int64_t token = blockIdx.x;
  LogitRow<const T> row = first;
  row.logits += token * row.width;
  SoftmaxStats mine{-INFINITY, 0, 0, 0};
  for (int64_t i = threadIdx.x * kSize; i < row.width; i += kThreads * kSize) {
    const auto vector = load<kSize>(row.logits + i);
    float logits[kSize];
    for (int j = 0; j < kSize; ++j) logits[j] = vector[j];
    mine = with_logits(mine, logits, row.scale);
  }
  mine = merge_block(mine, row.scale);
  if (threadIdx.x != 0) return;
  const int64_t column = row.column_of(labels[token]);
  mine.label = column >= 0 ? row.at(column) : 0.0F;
  stats[token] = mine;
}

template <class T, int kSize>
__global__ void differentiate_kernel(LogitRow<T> first, const int64_t* labels, const float* grad,
                                     const float* entropy_grad, const SoftmaxStats* whole) {
  const int64_t token = blockIdx.x;
  LogitRow<T> row = first;
  row.logits += token * row.width;
  const int64_t label = labels[token], column = row.column_of(label);
  const RowGradient gradient(label >= 0 ? grad[token] * row.scale : 0.0F,
                             entropy_grad != nullptr ? entropy_grad[token] * row.scale : 0.0F,
                             whole[token], row.scale);
  for (int64_t i = threadIdx.x * kSize; i < row.width; i += kThreads * kSize) {
    Vector<T, kSize> result = load<kSize>(row.logits + i);
    for (int j = 0; j < kSize; ++j)
      result.set(j, gradient.none ? 0.0F : gradient.at(result[j], i + j == column));
    store(row.logits + i, result);
  }
}

/// Calls body(t) for every token, one thread each.
template <class Body>
__global__ void tokens_kernel(int64_t tokens, Body body) {
  const int64_t t = archon::cuda::thread_index();
  if (t < tokens) body(t);
}

struct MergeRanks {
  const SoftmaxStats* stats;
  SoftmaxStats* whole;
  int64_t tokens, ranks;
  float scale;
  __device__ void operator()(int64_t t) const {
    whole[t] = kernels::merge_ranks(stats + t, tokens, ranks, scale);
  }
};

struct LogProb {
  const SoftmaxStats* whole;
  float* result;
  float scale;
  __device__ void operator()(int64_t t) const { result[t] = kernels::log_prob(whole[t], scale); }
};

struct Entropy {
  const SoftmaxStats* whole;
  float* result;
  __device__ void operator()(int64_t t) const { result[t] = kernels::entropy(whole[t]); }
};

const SoftmaxStats* stats_of(const at::Tensor& x) {
  return reinterpret_cast<const SoftmaxStats*>(x.const_data_ptr<float>());
}

template <class Body>
void for_tokens(const at::Tensor& output, const Body& body) {
  const int64_t tokens = output.size(0);
  if (tokens == 0) return;
  tokens_kernel<<<archon::cuda::blocks_for(tokens, kThreads), kThreads, 0, stream_of(output)>>>(
      tokens, body);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

void statistics(const at::Tensor& logits, const at::Tensor& labels, const Place& place,
                const at::Tensor& stats) {
  const auto tokens = static_cast<unsigned>(logits.size(0));
  if (tokens == 0) return;
  // A rank without rows of the vocabulary says so in its statistics.
  archon::cuda::for_vectors({logits}, logits.size(1), [&]<class T, class Size>(T*, Size) {
    const LogitRow<const T> first{logits.const_data_ptr<T>(), logits.size(1), place.first_row,
                                  place.scale};
    statistics_kernel<T, Size::value><<<tokens, kThreads, 0, stream_of(logits)>>>(
        first, labels.const_data_ptr<int64_t>(),
        reinterpret_cast<SoftmaxStats*>(stats.data_ptr<float>()));
  });
}

void merge_ranks(const at::Tensor& of_ranks, float scale, const at::Tensor& whole) {
  auto* const out = reinterpret_cast<SoftmaxStats*>(whole.data_ptr<float>());
  for_tokens(whole, MergeRanks{stats_of(of_ranks), out, of_ranks.size(1), of_ranks.size(0), scale});
}

void log_probs(const at::Tensor& whole, float scale, const at::Tensor& result) {
  for_tokens(result, LogProb{stats_of(whole), result.data_ptr<float>(), scale});
}

void entropies(const at::Tensor& whole, const at::Tensor& result) {
  for_tokens(result, Entropy{stats_of(whole), result.data_ptr<float>()});
}

void differentiate(const at::Tensor& logits, const at::Tensor& labels, const Place& place,
                   const at::Tensor& grad, const at::Tensor& entropy_grad,
                   const at::Tensor& whole) {
  const auto tokens = static_cast<unsigned>(logits.size(0));
  if (logits.numel() == 0) return;
  archon::cuda::for_vectors({logits}, logits.size(1), [&]<class T, class Size>(T*, Size) {
    const LogitRow<T> first{logits.data_ptr<T>(), logits.size(1), place.first_row, place.scale};
    differentiate_kernel<T, Size::value><<<tokens, kThreads, 0, stream_of(logits)>>>(
        first, labels.const_data_ptr<int64_t>(), grad.const_data_ptr<float>(),
        entropy_grad.defined() ? entropy_grad.const_data_ptr<float>() : nullptr, stats_of(whole));
  });
}

}  // namespace archon::softmax_rows::cuda
