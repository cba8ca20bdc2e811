// Draws of the next token: their distribution, what is left out, and that every tp rank agrees.
#include "archon/loss/sampling.hpp"

#include <ATen/ops/equal.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <set>

#include "archon/parallel/partition.hpp"
#include "support/tensors.hpp"
#include "support/world.hpp"

using namespace archon;
using archon::test::noise;
using archon::test::world_group;

namespace {

/// Draws `count` tokens, all from these logits: the head's first column holds them. (The width
/// makes chunks of 256 rows.)
DrawnTokens draw(const at::Tensor& logits, int64_t count, const SamplingOptions& options,
                 double temperature = 1.0, int64_t first_group = 0) {
  const Communicator tp = world_group();
  const Range rows = even_range(logits.size(0), tp.size(), tp.rank());
  const at::Tensor weight = at::zeros({rows.size(), 256}), hidden = at::zeros({count, 256});
  weight.select(1, 0).copy_(logits.narrow(0, rows.begin, rows.size()));
  hidden.select(1, 0).fill_(1);
  std::vector<Draw> draws;
  for (int64_t i = 0; i < count; ++i) draws.push_back({first_group, i / 100, i % 100});
  return draw_tokens(hidden, {weight, logits.size(0), tp, temperature}, draws, options);
}

/// Pearson's statistic of draws from `probabilities` (zeros: never drawn), and its degrees of
/// freedom.
std::pair<double, int> chi_squared(const at::Tensor& tokens, const at::Tensor& probabilities) {
  std::vector<int64_t> counts(probabilities.size(0));
  for (int64_t i = 0; i < tokens.size(0); ++i) ++counts[tokens.const_data_ptr<int64_t>()[i]];
  double statistic = 0;
  int freedom = -1;
  for (int64_t v = 0; v < probabilities.size(0); ++v) {
    const double expected = probabilities[v].item<double>() * static_cast<double>(tokens.size(0));
    if (expected == 0) {
      BOOST_CHECK_EQUAL(counts[v], 0);
      continue;
    }
    statistic += std::pow(static_cast<double>(counts[v]) - expected, 2) / expected;
    ++freedom;
  }
  return {statistic, freedom};
}

void check_distribution(const at::Tensor& logits, const at::Tensor& probabilities,
                        const SamplingOptions& options, double temperature) {
  const DrawnTokens drawn = draw(logits, 40000, options, temperature);
  const auto [statistic, freedom] = chi_squared(drawn.tokens, probabilities);
  // Within three standard deviations of what chance gives.
  BOOST_CHECK_LT(statistic, freedom + 3 * std::sqrt(2.0 * freedom));
  const at::Tensor log_probs =
      at::log_softmax(logits.to(at::kDouble) / temperature, 0).index_select(0, drawn.tokens);
  BOOST_CHECK_SMALL((drawn.log_probs - log_probs).abs().max().item<double>(), 1e-5);
}

/// Probabilities of the largest `count`, the others zero.
at::Tensor truncated(const at::Tensor& probabilities, int64_t count) {
  const at::Tensor threshold = std::get<0>(probabilities.sort(0, true))[count - 1];
  const at::Tensor kept = probabilities * probabilities.ge(threshold);
  return kept / kept.sum();
}

const at::Tensor kLogits = noise({50}, 5).mul(3).to(at::kFloat);

at::Tensor softmax(double temperature) {
  return at::log_softmax(kLogits.to(at::kDouble) / temperature, 0).exp();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(sampling)

BOOST_AUTO_TEST_CASE(draws_follow_the_distribution) {
  check_distribution(kLogits, softmax(1.0), {.seed = 1}, 1.0);
  check_distribution(kLogits, softmax(1.7), {.seed = 2}, 1.7);
  check_distribution(at::ones({7}), at::ones({7}, at::kDouble) / 7, {.seed = 3}, 0.5);
}

BOOST_AUTO_TEST_CASE(top_k_and_top_p_leave_the_rest_out) {
  check_distribution(kLogits, truncated(softmax(1.0), 6), {.top_k = 6, .seed = 4}, 1.0);
  // As many as it takes to reach 0.8.
  const at::Tensor sorted = std::get<0>(softmax(1.3).sort(0, true)).cumsum(0);
  const int64_t nucleus = sorted.lt(0.8).sum().item<int64_t>() + 1;
  check_distribution(kLogits, truncated(softmax(1.3), nucleus), {.top_p = 0.8, .seed = 5}, 1.3);
  // top_p is a share of what top_k leaves.
  const at::Tensor ten = truncated(softmax(1.0), 10);
  const int64_t of_ten = std::get<0>(ten.sort(0, true)).cumsum(0).lt(0.6).sum().item<int64_t>() + 1;
  check_distribution(kLogits, truncated(ten, of_ten), {.top_k = 10, .top_p = 0.6, .seed = 6}, 1.0);
  check_distribution(kLogits, softmax(1.0), {.top_k = 1000, .top_p = 0.999999999, .seed = 7}, 1.0);
}

BOOST_AUTO_TEST_CASE(one_candidate_is_the_likeliest_token) {
  const int64_t best = kLogits.argmax().item<int64_t>();
  for (const SamplingOptions& options :
       {SamplingOptions{.top_k = 1}, SamplingOptions{.top_p = 1e-9},
        SamplingOptions{.greedy = true}})
    BOOST_CHECK(draw(kLogits, 20, options).tokens.eq(best).all().item<bool>());
}

BOOST_AUTO_TEST_CASE(of_equals_the_lowest_is_taken_greedily) {
  at::Tensor logits = noise({3000}, 6).to(at::kFloat);
  for (const int64_t place : {2999, 1500, 1025, 17}) {
    logits[place] = 5;
    BOOST_CHECK_EQUAL(draw(logits, 1, {.greedy = true}).tokens[0].item<int64_t>(), place);
  }
}

// Tokens of small probability are drawn as often as they should be: the noise has no coarse steps.
BOOST_AUTO_TEST_CASE(a_large_uniform_vocabulary) {
  const int64_t vocab = 30000, count = 3000;
  const at::Tensor drawn = draw(at::ones({vocab}), count, {.seed = 8}).tokens;
  const auto* token = drawn.const_data_ptr<int64_t>();
  const std::set<int64_t> distinct(token, token + count);
  // vocab · (1 - (1 - 1/vocab)^count) are expected, with a standard deviation of about 11.
  const double expected = vocab * (1 - std::exp(-double(count) / vocab));
  BOOST_CHECK_SMALL(static_cast<double>(distinct.size()) - expected, 50.0);
  BOOST_CHECK_CLOSE(drawn.to(at::kDouble).mean().item<double>(), vocab / 2.0, 5.0);
}

BOOST_AUTO_TEST_CASE(every_rank_has_the_same) {
  const DrawnTokens drawn = draw(kLogits, 301, {.top_p = 0.9, .seed = 9});
  const Communicator tp = world_group();
  at::Tensor tokens = drawn.tokens.clone(), log_probs = drawn.log_probs.clone();
  tp.broadcast(tokens, 0);
  tp.broadcast(log_probs, 0);
  BOOST_CHECK(at::equal(tokens, drawn.tokens) && at::equal(log_probs, drawn.log_probs));
}

BOOST_AUTO_TEST_CASE(low_temperatures_round_no_log_probability) {
  const at::Tensor logits = kLogits.clone();
  logits[7] = 20.3F;
  logits[40] = std::nextafter(20.3F, 0.0F);  // with 13 % of the probability at 1e-6
  for (const double temperature : {1e-4, 1e-6, 1e-8})
    for (const double top_p : {1.0, 0.8}) {
      const DrawnTokens drawn = draw(logits, 20, {.top_p = top_p, .seed = 10}, temperature);
      const at::Tensor want = at::log_softmax(logits.to(at::kDouble) / temperature, 0);
      BOOST_CHECK_SMALL(
          (drawn.log_probs - want.index_select(0, drawn.tokens)).abs().max().item<double>(), 1e-5);
      if (top_p < 0.87 && temperature < 1e-5) BOOST_CHECK(drawn.tokens.eq(7).all().item<bool>());
    }
}

BOOST_AUTO_TEST_CASE(a_draw_depends_on_its_place_and_the_seed_alone) {
  const at::Tensor a = draw(kLogits, 300, {.seed = 1}).tokens;
  BOOST_CHECK(at::equal(a.narrow(0, 0, 10), draw(kLogits, 10, {.seed = 1}).tokens));
  BOOST_CHECK(!at::equal(a, draw(kLogits, 300, {.seed = 2}).tokens));
  BOOST_CHECK(!at::equal(a, draw(kLogits, 300, {.seed = 1}, 1.0, 1).tokens));
}

BOOST_AUTO_TEST_SUITE_END()
