// Every instruction set's attention gives what the portable one gives, which ops_test.cpp cannot
// see: there the processor's best is compared with the formula.
#include "attention_kernels.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "support/tensors.hpp"

using namespace archon;
using archon::test::noise;
using kernels::AttentionKernels;

namespace {

/// What is not computed, behind the diagonal, must not be used either.
at::Tensor scratch_for(int64_t d) {
  return at::full({kernels::attention_scratch(d)}, NAN, at::kFloat);
}

/// One head [tokens, 3, head_dim].
template <class T>
kernels::AttentionHead<T> head_of(const at::Tensor& qkv) {
  const T* rows = qkv.const_data_ptr<T>();
  const int64_t d = qkv.size(2);
  return {rows, rows + d, rows + 2 * d, 3 * d, qkv.size(0), d};
}

/// Output [tokens, head_dim] and log-sum-exp.
template <class T>
std::vector<at::Tensor> run_forward(const AttentionKernels<T>& attention, const at::Tensor& qkv) {
  const int64_t length = qkv.size(0), d = qkv.size(2);
  const at::Tensor scratch = scratch_for(d);
  at::Tensor out = at::empty({length, d}, qkv.options()),
             log_sum_exp = at::empty({length}, at::kFloat);
  for (int64_t block = 0; block < kernels::attention_blocks(length); ++block)
    attention.forward(head_of<T>(qkv), block, out.data_ptr<T>(), d, log_sum_exp.data_ptr<float>(),
                      scratch.data_ptr<float>());
  return {out, log_sum_exp};
}

/// Output, log-sum-exp and the gradients of query, key and value of one head.
template <class T>
std::vector<at::Tensor> run(const AttentionKernels<T>& attention, int64_t length, int64_t d) {
  const auto dtype = c10::CppTypeToScalarType<T>::value;
  const at::Tensor qkv = noise({length, 3, d}, 1).mul(2).to(dtype);
  const at::Tensor out_grad = noise({length, d}, 2).to(dtype), scratch = scratch_for(d);
  const auto forward = run_forward(attention, qkv);
  const at::Tensor &out = forward[0], &log_sum_exp = forward[1];
  at::Tensor query_grad = at::zeros({length, 3, d}, dtype);
  const int64_t padded_length = kernels::attention_blocks(length) * kernels::kAttentionBlock;
  const at::Tensor key_value =
      at::full({2, padded_length, kernels::attention_padded_dim(d)}, NAN, at::kFloat);
  attention.backward(
      head_of<T>(qkv),
      {out.data_ptr<T>(), out_grad.const_data_ptr<T>(), d, log_sum_exp.data_ptr<float>(),
       query_grad.data_ptr<T>(), key_value[0].data_ptr<float>(), key_value[1].data_ptr<float>()},
      scratch.data_ptr<float>());
  return {out, log_sum_exp, query_grad.select(1, 0),
          key_value.narrow(1, 0, length).narrow(2, 0, d)};
}

/// The last token's output for five query heads, from a cache that the kernels filled with keys and
/// values [tokens, 2, head_dim].
template <class T>
at::Tensor run_cached(const AttentionKernels<T>& attention, const at::Tensor& kv) {
  const int64_t length = kv.size(0), d = kv.size(2);
  const at::Tensor query = noise({5, d}, 2).mul(2).to(kv.scalar_type());
  const at::Tensor out = at::empty({5, d}, kv.options());
  const int64_t blocks = kernels::attention_blocks(length);
  const at::Tensor cache = at::full({blocks, attention.cache_head_floats(d)}, NAN, at::kFloat);
  std::vector<float*> block(blocks);
  for (int64_t b = 0; b < blocks; ++b) block[b] = cache[b].data_ptr<float>();
  const T* rows = kv.const_data_ptr<T>();
  for (int64_t t = 0; t < length; ++t)
    attention.append(block[t / kernels::kAttentionBlock], t % kernels::kAttentionBlock,
                     rows + 2 * t * d, rows + (2 * t + 1) * d, d);
  const at::Tensor scratch = at::empty({kernels::cached_attention_scratch(d, length)}, at::kFloat);
  attention.attend({query.const_data_ptr<T>(), 5, d, block.data(), 0, length, out.data_ptr<T>()},
                   scratch.data_ptr<float>());
  return out;
}

template <class T>
void compare_variants(double bound) {
  const auto variants = kernels::attention_variants<T>();
  BOOST_TEST(variants.front().name == kernels::attention_kernels<T>().name);
  for (const auto& [length, d] :
       {std::pair<int64_t, int64_t>{1, 2}, {64, 64}, {65, 24}, {200, 80}}) {
    const auto want = run(variants.back(), length, d);
    const at::Tensor kv = noise({length, 2, d}, 1).mul(2).to(c10::CppTypeToScalarType<T>::value);
    const at::Tensor want_cached = run_cached(variants.back(), kv);
    for (const auto& variant : variants) {
      const auto got = run(variant, length, d);
      BOOST_TEST_CONTEXT(variant.name << ", length " << length << ", head_dim " << d) {
        ARCHON_CHECK_NEAR(run_cached(variant, kv), want_cached, bound);
      }
      for (std::size_t i = 0; i < want.size(); ++i)
        BOOST_TEST_CONTEXT(variant.name << ", length " << length << ", head_dim " << d
                                        << ", result " << i) {
          ARCHON_CHECK_NEAR(got[i], want[i], bound);
        }
    }
  }
}

/// A number that is none in a query or key shows wherever it is attended from.
template <class T>
void check_nan_is_kept() {
  constexpr int64_t kLength = 70, kDim = 32;
  const auto dtype = c10::CppTypeToScalarType<T>::value;
  for (const auto& variant : kernels::attention_variants<T>()) BOOST_TEST_CONTEXT(variant.name) {
      const at::Tensor qkv = noise({kLength, 3, kDim}, 1).to(dtype);
      const auto finite_rows = [&] {
        return run_forward(variant, qkv)[0].isfinite().all(1).sum().template item<int64_t>();
      };
      BOOST_TEST(finite_rows() == kLength);
      qkv[66][0][5] = NAN;
      BOOST_TEST(finite_rows() == kLength - 1);
      qkv[3][1][5] = NAN;
      BOOST_TEST(finite_rows() == 3);

      const at::Tensor kv = noise({kLength, 2, kDim}, 1).to(dtype);
      kv[3][0][5] = NAN;
      BOOST_TEST(!run_cached(variant, kv).isfinite().any().template item<bool>());
    }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(attention_kernels)

BOOST_AUTO_TEST_CASE(nan_is_kept) {
  check_nan_is_kept<float>();
  check_nan_is_kept<c10::BFloat16>();
}

BOOST_AUTO_TEST_CASE(variants_agree_in_float32) { compare_variants<float>(2e-6); }
BOOST_AUTO_TEST_CASE(variants_agree_in_bfloat16) { compare_variants<c10::BFloat16>(2e-2); }

BOOST_AUTO_TEST_SUITE_END()
