// The arithmetic that the CUDA kernels of the softmax share, run here as they do, a thread after
// the other, against LibTorch's log_softmax in float64.
#include "softmax_math.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/zeros.h>

#include <boost/test/unit_test.hpp>
#include <vector>

#include "support/tensors.hpp"

using archon::kernels::LogitRow;
using archon::kernels::merge;
using archon::kernels::RowGradient;
using archon::kernels::SoftmaxStats;
using archon::test::noise;

namespace {

constexpr float kScale = 0.7F;

constexpr SoftmaxStats kNone{-INFINITY, 0, 0, 0};

/// As a block of threads does it: each its share, kSize logits at a time, then halves.
template <int kSize = 1>
SoftmaxStats of_block(const LogitRow<const float>& row, int threads) {
  std::vector<SoftmaxStats> shares(threads, kNone);
  for (int thread = 0; thread < threads; ++thread)
    for (int64_t i = thread * kSize; i < row.width; i += threads * kSize) {
      float logits[kSize];
      for (int j = 0; j < kSize; ++j) logits[j] = row.at(i + j);
      shares[thread] = with_logits(shares[thread], logits, row.scale);
    }
  for (int half = threads / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) shares[i] = merge(shares[i], shares[i + half], row.scale);
  return shares.front();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(softmax_math)

BOOST_AUTO_TEST_CASE(shares_of_threads_make_the_row) {
  for (const int64_t width : {1, 5, 64, 1000}) {
    const at::Tensor logits = noise({width}, 3).to(at::kFloat).mul(8.0).contiguous();
    const at::Tensor z = logits.to(at::kDouble) * double{kScale};
    const at::Tensor log_p = at::log_softmax(z, 0), p = log_p.exp();
    const LogitRow<const float> row{logits.const_data_ptr<float>(), width, 0, kScale};
    const SoftmaxStats stats = width % 8 == 0 ? of_block<8>(row, 16) : of_block(row, 64);
    for (int64_t i = 0; i < width; ++i)
      BOOST_CHECK_SMALL(log_prob(row.at(i), stats, kScale) - log_p[i].item<float>(), 2e-5F);
    const double entropy = -(p * log_p).sum().item<double>();
    BOOST_CHECK_SMALL(std::log(stats.sum) - stats.weighted / stats.sum - entropy, 2e-5);
  }
}

BOOST_AUTO_TEST_CASE(the_gradient_is_that_of_log_probability_and_entropy) {
  constexpr int64_t kWidth = 37, kLabel = 11;
  constexpr float kGrad = 0.8F, kEntropyGrad = -0.3F;
  const at::Tensor logits = noise({kWidth}, 4).to(at::kFloat).mul(3.0).contiguous();
  at::Tensor leaf = logits.to(at::kDouble).set_requires_grad(true);
  const at::Tensor log_p = at::log_softmax(leaf * double{kScale}, 0);
  (kGrad * log_p[kLabel] - kEntropyGrad * (log_p.exp() * log_p).sum()).backward();
  const LogitRow<const float> row{logits.const_data_ptr<float>(), kWidth, 0, kScale};
  const RowGradient gradient(kGrad * kScale, kEntropyGrad * kScale, of_block(row, 32), kScale);
  for (int64_t i = 0; i < kWidth; ++i)
    BOOST_CHECK_SMALL(gradient.at(row.at(i), i == kLabel) - leaf.grad()[i].item<float>(), 2e-6F);
}

BOOST_AUTO_TEST_CASE(a_label_is_in_the_rows_of_one_rank) {
  const std::vector<float> logits(5);
  const LogitRow<const float> row{logits.data(), 5, 10, 1.0F};
  for (const int64_t other : {-100, -1, 0, 9, 15}) BOOST_CHECK_LT(row.column_of(other), 0);
  for (int64_t label = 10; label < 15; ++label) BOOST_CHECK_EQUAL(row.column_of(label), label - 10);
}

BOOST_AUTO_TEST_CASE(no_rows_change_nothing) {
  const LogitRow<const float> none{nullptr, 0, 0, 1.0F};
  const SoftmaxStats some{2.0F, 3.0F, -1.0F, 0};
  for (const SoftmaxStats& both : {merge(kNone, some, kScale), merge(some, kNone, kScale),
                                   merge(of_block(none, 32), some, kScale)}) {
    BOOST_CHECK_EQUAL(both.max, some.max);
    BOOST_CHECK_EQUAL(both.sum, some.sum);
    BOOST_CHECK_EQUAL(both.weighted, some.weighted);
  }
  BOOST_CHECK(RowGradient(0.0F, 0.0F, some, kScale).none);
}

BOOST_AUTO_TEST_SUITE_END()
