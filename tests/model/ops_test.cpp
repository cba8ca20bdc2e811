// The operations of a decoder block against plain formulas in float64, gradients by autograd; on a
// GPU where it is built with ARCHON_TEST_CUDA.
#include "archon/model/ops.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <functional>
#include <limits>

#include "archon/base/error.hpp"
#include "support/tensors.hpp"
#include "support/world.hpp"

using archon::RotaryTable;
using archon::test::device;
using archon::test::leaf;
using archon::test::noise;
using Tensors = std::vector<at::Tensor>;
using Function = std::function<at::Tensor(const Tensors&)>;

namespace {

// More rows than one task of the kernels takes.
constexpr int64_t kTokens = 150;

/// Outputs and gradients of `got` in `dtype` against `want` in float64.
void check_function(const Tensors& inputs, at::ScalarType dtype, double bound, const Function& got,
                    const Function& want) {
  Tensors low, high;
  for (const at::Tensor& input : inputs) {
    low.push_back(leaf(input.to(dtype).to(device())));
    high.push_back(leaf(low.back().detach().cpu().to(at::kDouble)));
  }
  const at::Tensor y = got(low), y64 = want(high);
  BOOST_TEST((y.scalar_type() == dtype));
  ARCHON_CHECK_NEAR(y.detach().cpu(), y64.detach(), bound);
  const at::Tensor probe = noise(y64.sizes().vec(), 50).to(dtype);
  y.backward(probe.to(device()));
  y64.backward(probe.to(at::kDouble));
  for (std::size_t i = 0; i < inputs.size(); ++i)
    BOOST_TEST_CONTEXT("gradient " << i)
    ARCHON_CHECK_NEAR(low[i].grad().cpu(), high[i].grad(), bound);
}

void check_both_types(const Tensors& inputs, const Function& got, const Function& want,
                      double bound = 3e-6) {
  check_function(inputs, at::kFloat, bound, got, want);
  check_function(inputs, at::kBFloat16, 2e-2, got, want);
}

at::Tensor rms_norm_formula(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return weight * x * (x.square().mean(-1, true) + eps).rsqrt();
}

/// Turns (x[i], x[i + half]) by position · theta^(-2i/d).
at::Tensor rotary_formula(const at::Tensor& x, const at::Tensor& positions, double theta) {
  const int64_t d = x.size(2), half = d / 2;
  const at::Tensor frequency = (at::arange(half, at::kDouble) * (-2.0 / d) * std::log(theta)).exp();
  const at::Tensor angle = (positions.to(at::kDouble).unsqueeze(1) * frequency).unsqueeze(1);
  const at::Tensor a = x.narrow(2, 0, half), b = x.narrow(2, half, half);
  return at::cat({a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()}, 2);
}

/// Softmax over a whole score matrix, masked to be causal.
at::Tensor attention_formula(const at::Tensor& qkv, const std::vector<int64_t>& cu_seqlens,
                             int64_t heads, int64_t kv_heads) {
  const int64_t d = qkv.size(2);
  Tensors parts;
  for (std::size_t i = 0; i + 1 < cu_seqlens.size(); ++i) {
    const int64_t length = cu_seqlens[i + 1] - cu_seqlens[i];
    const at::Tensor rows = qkv.narrow(0, cu_seqlens[i], length);
    const at::Tensor future = at::ones({length, length}, at::kBool).triu(1);
    Tensors out;
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t kv = heads + head / (heads / kv_heads);
      const at::Tensor q = rows.select(1, head), k = rows.select(1, kv),
                       v = rows.select(1, kv + kv_heads);
      const at::Tensor scores = q.matmul(k.t()) / std::sqrt(static_cast<double>(d));
      out.push_back(at::softmax(scores.masked_fill(future, -INFINITY), 1).matmul(v));
    }
    parts.push_back(at::stack(out, 1));
  }
  const int64_t padding = qkv.size(0) - cu_seqlens.back();
  parts.push_back(qkv.narrow(0, cu_seqlens.back(), padding).narrow(1, 0, heads) * 0);
  return at::cat(parts);
}

struct Threads {
  explicit Threads(int count) : before(at::get_num_threads()) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before); }
  int before;
};

at::Tensor positions_of(const std::vector<int64_t>& cu_seqlens, int64_t tokens) {
  at::Tensor positions = at::arange(tokens, at::kLong);
  for (std::size_t i = 0; i < cu_seqlens.size(); ++i) {
    const int64_t begin = cu_seqlens[i];
    const int64_t end = i + 1 < cu_seqlens.size() ? cu_seqlens[i + 1] : tokens;
    positions.narrow(0, begin, end - begin).copy_(at::arange(end - begin, at::kLong));
  }
  return positions;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(ops)

BOOST_AUTO_TEST_CASE(rms_norm) {
  for (const int64_t width : {1, 7, 64, 4104}) {
    const auto inputs = Tensors{noise({kTokens, width}, 1), noise({width}, 2).add(1.5)};
    for (const double eps : {1e-6, 0.5})
      check_both_types(
          inputs, [&](const Tensors& t) { return archon::rms_norm(t[0], t[1], eps); },
          [&](const Tensors& t) { return rms_norm_formula(t[0], t[1], eps); });
  }
}

BOOST_AUTO_TEST_CASE(rms_norm_of_zeros_is_zero) {
  const at::Tensor x = leaf(at::zeros({3, 8}, device())),
                   weight = leaf(at::ones({8}, device()));
  const at::Tensor y = archon::rms_norm(x, weight, 1e-6);
  BOOST_TEST(y.eq(0).all().item<bool>());
  y.sum().backward();
  BOOST_TEST(x.grad().isfinite().all().item<bool>());
}

BOOST_AUTO_TEST_CASE(swiglu) {
  for (const int64_t width : {1, 7, 64})
    check_both_types(
        {noise({kTokens, 2 * width}, 1).mul(3)},
        [](const Tensors& t) { return archon::swiglu(t[0]); },
        [&](const Tensors& t) {
          const at::Tensor gate = t[0].narrow(1, 0, width), up = t[0].narrow(1, width, width);
          return gate * gate.sigmoid() * up;
        });
}

BOOST_AUTO_TEST_CASE(swiglu_of_large_gates_does_not_overflow) {
  // Widths for scalar and for vector code.
  for (const int64_t width : {1, 64})
    for (const float gate : {-88.0F, -89.0F, -95.0F, -300.0F, -1e5F, 89.0F, 300.0F}) {
      const at::Tensor gates = at::full({1, width}, gate), ups = at::full({1, width}, 2.0F);
      const at::Tensor gate_up = leaf(at::cat({gates, ups}, 1).to(device()));
      const at::Tensor y = archon::swiglu(gate_up);
      const float open = gate < 0 ? 0 : gate, slope = gate < 0 ? 0 : 2;
      const at::Tensor grad_want =
          at::cat({at::full_like(gates, slope), at::full_like(ups, open)}, 1);
      BOOST_TEST_CONTEXT("width " << width << ", gate " << gate) {
        BOOST_TEST(at::allclose(y.detach().cpu(), at::full_like(ups, 2 * open), 1e-6, 1e-30));
        y.sum().backward();
        BOOST_TEST(at::allclose(gate_up.grad().cpu(), grad_want, 1e-6, 1e-30));
      }
    }
}

BOOST_AUTO_TEST_CASE(norm_and_rotary) {
  const int64_t heads = 4, kv_heads = 2;
  const at::Tensor positions = positions_of({0, 61, 62, 100}, kTokens);
  const double theta = 1e4, eps = 1e-6;
  for (const int64_t d : {2, 6, 16, 64, 128, 256, 512}) {
    const RotaryTable table = archon::rotary_table(positions.to(device()), d, theta);
    BOOST_TEST(table.cos.sizes() == at::IntArrayRef({kTokens, d / 2}));
    const auto want = [&](const Tensors& t) {
      at::Tensor query = t[0].narrow(1, 0, heads), key = t[0].narrow(1, heads, kv_heads);
      if (t.size() == 3) {
        query = rms_norm_formula(query, t[1], eps);
        key = rms_norm_formula(key, t[2], eps);
      }
      return at::cat(
          {rotary_formula(query, positions, theta), rotary_formula(key, positions, theta),
           t[0].narrow(1, heads + kv_heads, kv_heads)},
          1);
    };
    const auto got = [&](const Tensors& t) {
      return archon::query_key_norm_rotary(t[0], t.size() == 3 ? t[1] : at::Tensor(),
                                           t.size() == 3 ? t[2] : at::Tensor(), table, heads,
                                           kv_heads, eps);
    };
    const at::Tensor qkv = noise({kTokens, heads + 2 * kv_heads, d}, 1);
    // With more frequencies one of the angles, float32 as in transformers, is rounded further off.
    const double bound = d <= 16 ? 3e-6 : 6e-6;
    check_both_types({qkv}, got, want, bound);
    check_both_types({qkv, noise({d}, 2).add(1.5), noise({d}, 3).add(1.5)}, got, want, bound);
  }
}

BOOST_AUTO_TEST_CASE(attention) {
  // Several sequences (some of length 1), with and without padding behind; none at all.
  const std::vector<std::vector<int64_t>> offsets = {
      {0, 5}, {0, 1, 8, 9, 29}, {0, 40}, {0, 1, 2, 3}, {0}};
  for (const auto& cu_seqlens : offsets)
    for (const int64_t padding : {0, 6})
      for (const auto& [heads, kv_heads] : {std::pair<int64_t, int64_t>{1, 1}, {4, 4}, {6, 2}}) {
        const int64_t tokens = cu_seqlens.back() + padding;
        if (tokens == 0) continue;
        BOOST_TEST_CONTEXT(cu_seqlens.size() - 1 << " sequences, " << padding << " padding, "
                                                 << heads << "/" << kv_heads << " heads") {
          check_both_types(
              {noise({tokens, heads + 2 * kv_heads, 8}, 1).mul(2)},
              [&](const Tensors& t) {
                return archon::packed_attention(t[0], cu_seqlens, heads, kv_heads);
              },
              [&](const Tensors& t) {
                return attention_formula(t[0], cu_seqlens, heads, kv_heads);
              });
        }
      }
}

// Lengths around those of the kernels' blocks, head dims around those of vectors.
BOOST_AUTO_TEST_CASE(heads_too_wide_for_the_kernels_are_refused) {
  const int64_t d = 514;
  const RotaryTable table = archon::rotary_table(at::arange(1), d, 1e4);
  BOOST_CHECK_THROW(archon::query_key_norm_rotary(at::ones({1, 3, d}), {}, {}, table, 1, 1, 1e-6),
                    archon::RuntimeFailure);
}

BOOST_AUTO_TEST_CASE(attention_of_any_length_and_head_dim) {
  const std::vector<int64_t> cu_seqlens = {0, 63, 64, 128, 193, 322, 324};
  for (const int64_t d : {2, 6, 16, 40, 64, 80, 112, 128, 256})
    BOOST_TEST_CONTEXT("head_dim " << d) {
      check_both_types(
          {noise({325, 6, d}, 1)},
          [&](const Tensors& t) { return archon::packed_attention(t[0], cu_seqlens, 4, 1); },
          [&](const Tensors& t) { return attention_formula(t[0], cu_seqlens, 4, 1); });
    }
}

// Scores far beyond what exp takes.
BOOST_AUTO_TEST_CASE(attention_of_large_scores_does_not_overflow) {
  check_function(
      {noise({70, 3, 8}, 1).mul(30)}, at::kFloat, 1e-3,
      [](const Tensors& t) { return archon::packed_attention(t[0], {0, 70}, 1, 1); },
      [](const Tensors& t) { return attention_formula(t[0], {0, 70}, 1, 1); });
}

// Whatever lies in the padding (here: NaN, and memory that was NaN) stays there.
BOOST_AUTO_TEST_CASE(padding_is_never_read) {
  const int64_t tokens = 164, used = 140, heads = 2;
  at::Tensor qkv = noise({tokens, 3 * heads, 8}, 1).to(at::kFloat).to(device());
  const auto run = [&](double filling) {
    qkv.narrow(0, used, tokens - used).fill_(filling);
    { const at::Tensor dirt = at::full({tokens, heads, 8}, NAN, device()); }
    const at::Tensor x = leaf(qkv);
    const at::Tensor y = archon::packed_attention(x, {0, 67, used}, heads, heads);
    { const at::Tensor dirt = at::full({tokens, 3 * heads, 8}, NAN, device()); }
    y.narrow(0, 0, used).sum().backward();
    return Tensors{y.detach(), x.grad()};
  };
  const Tensors zeros = run(0), garbage = run(NAN);
  for (int i = 0; i < 2; ++i) {
    BOOST_TEST(zeros[i].equal(garbage[i]));
    BOOST_TEST(garbage[i].narrow(0, used, tokens - used).eq(0).all().item<bool>());
  }
}

#ifndef ARCHON_TEST_CUDA
BOOST_AUTO_TEST_CASE(the_number_of_threads_changes_no_bit) {
  const int64_t heads = 4, kv_heads = 2, d = 8;
  const std::vector<int64_t> cu_seqlens = {0, 30, 31, 97, kTokens};
  const RotaryTable table = archon::rotary_table(positions_of(cu_seqlens, kTokens), d, 1e4);
  const auto run = [&](int threads) {
    const Threads guard(threads);
    const at::Tensor qkv = leaf(noise({kTokens, heads + 2 * kv_heads, d}, 1).to(at::kFloat)),
                     norm = leaf(noise({d}, 2).add(1.5).to(at::kFloat)),
                     weight = leaf(noise({heads * d}, 3).add(1.5).to(at::kFloat));
    at::Tensor x = archon::query_key_norm_rotary(qkv, norm, norm, table, heads, kv_heads, 1e-6);
    x = archon::packed_attention(x, cu_seqlens, heads, kv_heads).view({kTokens, heads * d});
    x = archon::swiglu(archon::rms_norm(x, weight, 1e-6));
    x.backward(noise(x.sizes().vec(), 4).to(at::kFloat));
    return Tensors{x.detach(), qkv.grad(), norm.grad(), weight.grad()};
  };
  const Tensors one = run(1);
  for (const int threads : {2, 3}) {
    const Tensors many = run(threads);
    for (std::size_t i = 0; i < one.size(); ++i)
      BOOST_CHECK_MESSAGE(one[i].equal(many[i]), "result " << i << ", " << threads << " threads");
  }
}
#endif

BOOST_AUTO_TEST_SUITE_END()
