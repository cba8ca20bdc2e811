#include "reduce.hpp"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>

namespace archon {
namespace {

template <class T>
struct Accumulator {
  using type = T;
};
template <>
struct Accumulator<c10::BFloat16> {
  using type = float;
};
template <>
struct Accumulator<c10::Half> {
  using type = float;
};

template <class T>
auto combine(T a, T b, ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return static_cast<T>(a + b);
    case ReduceOp::max:
      return std::max(a, b);
    case ReduceOp::min:
      return std::min(a, b);
  }
  return a;
}

template <class A, class O, class T>
void reduce_sum_range(O* out, const std::vector<const T*>& in, int64_t begin, int64_t end) {
  // Tiles stay in the first-level cache, so each input is read once.
  constexpr int64_t kTile = 1024;
  A tile[kTile];
  for (int64_t start = begin; start < end; start += kTile) {
    const int64_t n = std::min(kTile, end - start);
    for (int64_t i = 0; i < n; ++i) tile[i] = static_cast<A>(in[0][start + i]);
    for (std::size_t b = 1; b < in.size(); ++b) {
      const T* block = in[b] + start;
      for (int64_t i = 0; i < n; ++i) tile[i] += static_cast<A>(block[i]);
    }
    for (int64_t i = 0; i < n; ++i) out[start + i] = static_cast<O>(tile[i]);
  }
}

template <class T, class A>
void reduce_other_range(T* out, const std::vector<const T*>& in, int64_t begin, int64_t end,
                        ReduceOp op) {
  for (int64_t i = begin; i < end; ++i) {
    A value = static_cast<A>(in[0][i]);
    for (std::size_t b = 1; b < in.size(); ++b)
      value = combine<A>(value, static_cast<A>(in[b][i]), op);
    out[i] = static_cast<T>(value);
  }
}

}  // namespace

void reduce_blocks(at::Tensor output, const std::vector<at::Tensor>& blocks, ReduceOp op) {
  constexpr int64_t kGrain = 1 << 15;
  const int64_t count = output.numel();
  const at::ScalarType type = blocks.front().scalar_type();
  const bool widens = output.scalar_type() != type;
  AT_DISPATCH_ALL_TYPES_AND3(
      at::kBFloat16, at::kHalf, at::kBool, type, "reduce_blocks", [&] {
        using A = typename Accumulator<scalar_t>::type;
        std::vector<const scalar_t*> in;
        for (const at::Tensor& block : blocks) in.push_back(block.const_data_ptr<scalar_t>());
        A* wide = widens ? output.data_ptr<A>() : nullptr;
        scalar_t* out = widens ? nullptr : output.data_ptr<scalar_t>();
        at::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
          if (widens)
            reduce_sum_range<A>(wide, in, begin, end);
          else if (op == ReduceOp::sum)
            reduce_sum_range<A>(out, in, begin, end);
          else
            reduce_other_range<scalar_t, A>(out, in, begin, end, op);
        });
      });
}

}  // namespace archon
