#include "archon/parallel/ulysses.hpp"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <cstring>

#include "archon/base/error.hpp"

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

/// [tokens, heads + 2·kv_heads, d] to [cp, tokens, block, d].
at::Tensor pack_heads(const at::Tensor& qkv, const UlyssesHeads& layout) {
  const int64_t tokens = qkv.size(0), d = qkv.size(2), block = layout.block() * d;
  at::Tensor blocks = at::empty({layout.cp, tokens, layout.block(), d}, qkv.options());
  const auto size = qkv.element_size();
  const auto* from = static_cast<const char*>(qkv.const_data_ptr());
  auto* to = static_cast<char*>(blocks.data_ptr());
  const int64_t whole = qkv.size(1) * d;
  at::parallel_for(0, layout.cp * tokens, kGrainRows, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (const Run& run : runs_of_rank(layout, static_cast<int>(i / tokens), d))
        std::memcpy(to + (i * block + run.block) * size,
                    from + ((i % tokens) * whole + run.whole) * size, run.length * size);
  });
  return blocks;
}

/// The adjoint of pack_heads: copies what went to one rank, sums (in rank order, in float32) what
/// went to several.
at::Tensor unpack_heads(const at::Tensor& blocks, const UlyssesHeads& layout) {
  const int64_t tokens = blocks.size(1), d = blocks.size(3), block = layout.block() * d;
  at::Tensor qkv = at::empty({tokens, layout.heads + 2 * layout.kv_heads, d}, blocks.options());
  const int64_t whole = qkv.size(1) * d;
  const int copies = layout.kv_heads >= layout.cp ? 1 : layout.cp / layout.kv_heads;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kBFloat16, at::kHalf, blocks.scalar_type(), "unpack_heads", [&] {
        const auto* from = blocks.const_data_ptr<scalar_t>();
        auto* to = qkv.data_ptr<scalar_t>();
        at::parallel_for(0, tokens, kGrainRows, [&](int64_t begin, int64_t end) {
          for (int rank = 0; rank < layout.cp; ++rank) {
            const auto runs = runs_of_rank(layout, rank, d);
            for (int64_t t = begin; t < end; ++t)
              for (int part = 0; part < 3; ++part) {
                const auto* source = from + (rank * tokens + t) * block + runs[part].block;
                auto* target = to + t * whole + runs[part].whole;
                if (part == 0 || copies == 1) {
                  std::memcpy(target, source, runs[part].length * sizeof(scalar_t));
                } else if (rank % copies == 0) {
                  for (int64_t i = 0; i < runs[part].length; ++i) {
                    float sum = 0;
                    for (int c = 0; c < copies; ++c)
                      sum += static_cast<float>(source[c * tokens * block + i]);
                    target[i] = static_cast<scalar_t>(sum);
                  }
                }
              }
          }
        });
      });
  return qkv;
}

/// [cp, tokens, n] to [tokens, cp, n], or back.
at::Tensor swap_blocks(const at::Tensor& x) {
  const int64_t outer = x.size(0), inner = x.size(1), bytes = x.size(2) * x.element_size();
  at::Tensor y = at::empty({inner, outer, x.size(2)}, x.options());
  const auto* from = static_cast<const char*>(x.const_data_ptr());
  auto* to = static_cast<char*>(y.data_ptr());
  at::parallel_for(0, inner, kGrainRows, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t o = 0; o < outer; ++o)
        std::memcpy(to + (i * outer + o) * bytes, from + (o * inner + i) * bytes, bytes);
  });
  return y;
}

at::Tensor exchange(const at::Tensor& blocks, const Communicator& cp) {
  at::Tensor received = at::empty_like(blocks);
  cp.all_to_all(received, blocks);
  return received;
}

struct ScatterHeads : torch::autograd::Function<ScatterHeads> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv, UlyssesHeads layout,
                            const Communicator* cp) {
    context->saved_data["layout"] = std::vector<int64_t>{layout.heads, layout.kv_heads, layout.cp};
    context->saved_data["cp"] = reinterpret_cast<int64_t>(cp);
    const at::Tensor received = exchange(pack_heads(qkv.contiguous(), layout), *cp);
    // Blocks arrive in rank order, which is token order: no second copy.
    return received.view({-1, layout.block(), qkv.size(2)});
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->saved_data["layout"].toIntVector();
    const UlyssesHeads layout{saved[0], saved[1], static_cast<int>(saved[2])};
    const auto* cp = reinterpret_cast<const Communicator*>(context->saved_data["cp"].toInt());
    const at::Tensor grad = grads[0].contiguous();
    const at::Tensor blocks =
        grad.view({layout.cp, grad.size(0) / layout.cp, layout.block(), grad.size(2)});
    return {unpack_heads(exchange(blocks, *cp), layout), at::Tensor(), at::Tensor()};
  }
};

struct GatherHeads : torch::autograd::Function<GatherHeads> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& out,
                            const Communicator* cp) {
    context->saved_data["cp"] = reinterpret_cast<int64_t>(cp);
    const int64_t tokens = out.size(0) / cp->size(), heads = out.size(1), d = out.size(2);
    const at::Tensor blocks = out.contiguous().view({cp->size(), tokens, heads * d});
    return swap_blocks(exchange(blocks, *cp)).view({tokens, cp->size() * heads, d});
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto* cp = reinterpret_cast<const Communicator*>(context->saved_data["cp"].toInt());
    const at::Tensor grad = grads[0].contiguous();
    const int64_t tokens = grad.size(0), heads = grad.size(1) / cp->size(), d = grad.size(2);
    const at::Tensor blocks = swap_blocks(grad.view({tokens, cp->size(), heads * d}));
    return {exchange(blocks, *cp).view({cp->size() * tokens, heads, d}), at::Tensor()};
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
