#include "archon/parallel/ulysses.hpp"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <cstring>

#include "archon/base/error.hpp"
#include "archon/base/host_device.hpp"
#include "ulysses_kernels.hpp"

namespace archon {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kGrainRows = 32;

/// Three runs of heads (queries, keys, values) of one token, as they lie in the whole projection
/// and in one rank's block. In elements.
struct Run {
  int64_t whole, block, length;
};

std::array<Run, 3> runs_of_rank(const UlyssesHeads& layout, int rank, int64_t head_dim) {
  const int64_t q = layout.heads_per_rank(), kv = layout.kv_heads_per_rank();
  const int64_t first_kv = layout.first_kv_head(rank);
  return {{{layout.first_head(rank) * head_dim, 0, q * head_dim},
           {(layout.heads + first_kv) * head_dim, q * head_dim, kv * head_dim},
           {(layout.heads + layout.kv_heads + first_kv) * head_dim, (q + kv) * head_dim,
            kv * head_dim}}};
}

/// One block for each cp rank, stacked in two tensors [cp, ...]: those that travel, and the one of
/// which only this rank's own block is used. That block is written, or read, where it stays.
class RankBlocks {
 public:
  RankBlocks(const at::Tensor& travelling, const at::Tensor& own, int rank)
      : travelling(travelling),
        own(own),
        rank(rank),
        travelling_data_(static_cast<char*>(travelling.data_ptr())),
        own_data_(static_cast<char*>(own.data_ptr())),
        bytes_(travelling.nbytes() / travelling.size(0)) {}
  char* operator[](int64_t block) const {
    return (block == rank ? own_data_ : travelling_data_) + block * bytes_;
  }

  const at::Tensor travelling, own;
  const int rank;

 private:
  char *travelling_data_, *own_data_;
  int64_t bytes_;
};

/// Packs blocks of `shape` [cp, ...], with `pack(blocks)`, and exchanges them.
template <class Pack>
at::Tensor pack_and_exchange(at::IntArrayRef shape, const at::TensorOptions& options,
                             const Communicator& cp, const Pack& pack) {
  const at::Tensor send = at::empty(shape, options);
  at::Tensor received = at::empty(shape, options);
  pack(RankBlocks(send, received, cp.rank()));
  cp.exchange_others(received, send);
  return received;
}

/// Exchanges blocks [cp, ...] and unpacks them with `unpack(blocks)`.
template <class Unpack>
at::Tensor exchange_and_unpack(const at::Tensor& send, const Communicator& cp,
                               const Unpack& unpack) {
  const at::Tensor received = at::empty_like(send);
  cp.exchange_others(received, send);
  return unpack(RankBlocks(received, send, cp.rank()));
}

/// [tokens, heads + 2·kv_heads, d] to blocks [tokens, block, d].
void pack_heads(const at::Tensor& qkv, const UlyssesHeads& layout, const RankBlocks& blocks) {
  if constexpr (kCudaBuild)
    if (qkv.is_cuda())
      return ulysses::pack_heads(qkv, layout, blocks.travelling, blocks.own, blocks.rank);
  const int64_t tokens = qkv.size(0), d = qkv.size(2), block = layout.block() * d;
  const int64_t size = qkv.element_size(), whole = qkv.size(1) * d;
  const auto* from = static_cast<const char*>(qkv.const_data_ptr());
  at::parallel_for(0, layout.cp * tokens, kGrainRows, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t rank = i / tokens, t = i % tokens;
      for (const Run& run : runs_of_rank(layout, static_cast<int>(rank), d))
        std::memcpy(blocks[rank] + (t * block + run.block) * size,
                    from + (t * whole + run.whole) * size, run.length * size);
    }
  });
}

/// The adjoint of pack_heads: copies what went to one rank, sums (in rank order, in float32) what
/// went to several.
template <class T>
void unpack_tokens(T* qkv, const RankBlocks& blocks, const UlyssesHeads& layout, int64_t d,
                   int64_t begin, int64_t end) {
  const int64_t block = layout.block() * d, whole = layout.whole() * d;
  const int copies = layout.copies();
  const auto source = [&](int rank, int64_t t, const Run& run) {
    return reinterpret_cast<const T*>(blocks[rank]) + t * block + run.block;
  };
  for (int rank = 0; rank < layout.cp; ++rank) {
    const auto runs = runs_of_rank(layout, rank, d);
    for (int64_t t = begin; t < end; ++t)
      for (std::size_t part = 0; part < runs.size(); ++part) {
        const Run& run = runs[part];
        T* target = qkv + t * whole + run.whole;
        if (part == 0 || copies == 1) {
          std::memcpy(target, source(rank, t, run), run.length * sizeof(T));
        } else if (rank % copies == 0) {
          for (int64_t i = 0; i < run.length; ++i) {
            float sum = 0;
            for (int c = 0; c < copies; ++c) sum += static_cast<float>(source(rank + c, t, run)[i]);
            target[i] = static_cast<T>(sum);
          }
        }
      }
  }
}

at::Tensor unpack_heads(const RankBlocks& blocks, const UlyssesHeads& layout, int64_t tokens,
                        int64_t d, const at::TensorOptions& options) {
  at::Tensor qkv = at::empty({tokens, layout.whole(), d}, options);
  if constexpr (kCudaBuild)
    if (qkv.is_cuda()) {
      ulysses::unpack_heads(qkv, layout, blocks.travelling, blocks.own, blocks.rank);
      return qkv;
    }
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, qkv.scalar_type(), "unpack_heads", [&] {
    at::parallel_for(0, tokens, kGrainRows, [&](int64_t begin, int64_t end) {
      unpack_tokens(qkv.data_ptr<scalar_t>(), blocks, layout, d, begin, end);
    });
  });
  return qkv;
}

/// Calls copy(block, row, bytes) for the parts of all tokens: `block` where a token's part lies in
/// a rank's block [tokens, n], `row` where it lies in x [tokens, cp·n].
template <class Copy>
void for_parts(const RankBlocks& blocks, const at::Tensor& x, const Copy& copy) {
  const int64_t cp = blocks.own.size(0);
  const int64_t bytes = x.stride(0) * x.element_size() / cp;
  auto* rows = static_cast<char*>(x.data_ptr());
  at::parallel_for(0, x.size(0), kGrainRows, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t rank = 0; rank < cp; ++rank)
        copy(blocks[rank] + t * bytes, rows + (t * cp + rank) * bytes, bytes);
  });
}

/// Rows [tokens, cp·n] to blocks [cp, tokens, n].
void pack_rows(const at::Tensor& rows, const RankBlocks& blocks) {
  if constexpr (kCudaBuild)
    if (rows.is_cuda())
      return ulysses::pack_rows(rows, blocks.travelling, blocks.own, blocks.rank);
  for_parts(blocks, rows,
            [](char* block, char* row, int64_t bytes) { std::memcpy(block, row, bytes); });
}

void unpack_rows(const at::Tensor& rows, const RankBlocks& blocks) {
  if constexpr (kCudaBuild)
    if (rows.is_cuda())
      return ulysses::unpack_rows(rows, blocks.travelling, blocks.own, blocks.rank);
  for_parts(blocks, rows,
            [](char* block, char* row, int64_t bytes) { std::memcpy(row, block, bytes); });
}

struct ScatterHeads : torch::autograd::Function<ScatterHeads> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv, UlyssesHeads layout,
                            const Communicator* cp) {
    context->saved_data["layout"] = std::vector<int64_t>{layout.heads, layout.kv_heads, layout.cp};
    context->saved_data["cp"] = reinterpret_cast<int64_t>(cp);
    const int64_t tokens = qkv.size(0), d = qkv.size(2);
    const at::Tensor x = qkv.contiguous();
    // Blocks arrive in rank order, which is token order: no second copy.
    return pack_and_exchange({layout.cp, tokens, layout.block(), d}, qkv.options(), *cp,
                             [&](const RankBlocks& blocks) { pack_heads(x, layout, blocks); })
        .view({layout.cp * tokens, layout.block(), d});
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->saved_data["layout"].toIntVector();
    const UlyssesHeads layout{saved[0], saved[1], static_cast<int>(saved[2])};
    const auto* cp = reinterpret_cast<const Communicator*>(context->saved_data["cp"].toInt());
    const at::Tensor grad = grads[0].contiguous();
    const int64_t tokens = grad.size(0) / layout.cp, d = grad.size(2);
    return {exchange_and_unpack(grad.view({layout.cp, tokens, layout.block(), d}), *cp,
                                [&](const RankBlocks& blocks) {
                                  return unpack_heads(blocks, layout, tokens, d, grad.options());
                                }),
            at::Tensor(), at::Tensor()};
  }
};

struct GatherHeads : torch::autograd::Function<GatherHeads> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& out,
                            const Communicator* cp) {
    context->saved_data["cp"] = reinterpret_cast<int64_t>(cp);
    const int64_t tokens = out.size(0) / cp->size(), heads = out.size(1), d = out.size(2);
    const at::Tensor send = out.contiguous().view({cp->size(), tokens, heads, d});
    return exchange_and_unpack(send, *cp, [&](const RankBlocks& blocks) {
      const at::Tensor x = at::empty({tokens, cp->size() * heads, d}, out.options());
      unpack_rows(x, blocks);
      return x;
    });
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto* cp = reinterpret_cast<const Communicator*>(context->saved_data["cp"].toInt());
    const at::Tensor grad = grads[0].contiguous();
    const int64_t tokens = grad.size(0), heads = grad.size(1) / cp->size(), d = grad.size(2);
    const at::Tensor received = pack_and_exchange(
        {cp->size(), tokens, heads, d}, grad.options(), *cp,
        [&](const RankBlocks& blocks) { pack_rows(grad, blocks); });
    return {received.view({cp->size() * tokens, heads, d}), at::Tensor()};
  }
};

}  // namespace

at::Tensor ulysses_scatter_heads(const at::Tensor& qkv, const UlyssesHeads& layout,
                                 const Communicator& cp) {
  if (cp.size() == 1) return qkv;
  ARCHON_EXPECT(qkv.size(1) == layout.heads + 2 * layout.kv_heads && layout.cp == cp.size());
  return ScatterHeads::apply(qkv, layout, &cp);
}

at::Tensor ulysses_gather_heads(const at::Tensor& out, const Communicator& cp) {
  if (cp.size() == 1) return out;
  return GatherHeads::apply(out, &cp);
}

}  // namespace archon
