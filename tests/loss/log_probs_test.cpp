// The vocabulary-parallel head against log_softmax of the whole logits in float64.
#include "archon/loss/log_probs.hpp"

#include <ATen/ops/argmax.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/max.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "archon/loss/sampling.hpp"
#include "archon/parallel/partition.hpp"
#include "support/tensors.hpp"
#include "support/world.hpp"

using archon::Communicator;
using archon::even_range;
using archon::Range;
using archon::VocabParallelHead;
using archon::test::device;
using archon::test::leaf;
using archon::test::noise;
using archon::test::world_group;

namespace {

/// A head of `vocab` rows over tp ranks, with hidden states and labels.
struct Problem {
  int64_t tokens, vocab;
  double temperature = 1.0;
  double logit_scale = 4.0;
  int64_t width = 8;

  at::Tensor hidden() const { return noise({tokens, width}, 1); }
  at::Tensor weight() const { return noise({vocab, width}, 2).mul(logit_scale); }
  /// Each label once in a while; every fifth token has none.
  at::Tensor labels() const {
    at::Tensor labels = at::zeros({tokens}, at::kLong);
    int64_t* label = labels.mutable_data_ptr<int64_t>();
    for (int64_t t = 0; t < tokens; ++t) label[t] = t % 5 == 2 ? -1 : (7 * t + t / 3) % vocab;
    return labels;
  }
  /// Some weights are zero, and so are those of tokens without a label.
  at::Tensor weights() const {
    const at::Tensor w = noise({tokens}, 3).abs();
    return w.mul(labels().ge(0)).mul(noise({tokens}, 4).gt(-0.5)).to(at::kFloat);
  }
};

/// The same by the definition; differentiable.
struct Reference {
  at::Tensor hidden, weight, log_probs, entropy;

  explicit Reference(const Problem& problem, at::ScalarType rounding = at::kDouble)
      : hidden(leaf(problem.hidden().to(rounding).to(at::kDouble))),
        weight(leaf(problem.weight().to(rounding).to(at::kDouble))) {
    const at::Tensor logits = hidden.matmul(weight.t()).div(problem.temperature);
    const at::Tensor all = at::log_softmax(logits, 1), labels = problem.labels();
    const at::Tensor present = labels.ge(0).to(at::kDouble);
    log_probs = all.gather(1, labels.clamp_min(0).unsqueeze(1)).squeeze(1) * present;
    entropy = -(all.exp() * all).sum(1) * present;
  }
};

/// This rank's share of the problem.
struct Share {
  Range rows;
  at::Tensor hidden, weight;
  VocabParallelHead head;

  Share(const Problem& problem, const Communicator& tp, at::ScalarType dtype)
      : rows(even_range(problem.vocab, tp.size(), tp.rank())),
        hidden(leaf(problem.hidden().to(dtype).to(device()))),
        weight(leaf(problem.weight().narrow(0, rows.begin, rows.size()).to(dtype).to(device()))),
        head{weight, problem.vocab, tp, problem.temperature} {}

  /// hidden's gradient is one part of a sum over tp.
  void check_gradients(const Reference& want, const Communicator& tp, double bound) const {
    at::Tensor hidden_grad = hidden.grad().cpu().to(at::kDouble).contiguous();
    tp.all_reduce(hidden_grad);
    ARCHON_CHECK_NEAR(hidden_grad, want.hidden.grad(), bound);
    const at::Tensor whole = want.weight.grad();
    const double scale = whole.abs().max().item<double>();
    const at::Tensor mine = whole.narrow(0, rows.begin, rows.size());
    if (rows.size() > 0)
      BOOST_CHECK_LE((weight.grad().cpu().to(at::kDouble) - mine).abs().max().item<double>(),
                     bound * scale);
  }
};

// The third and fourth take several chunks of tokens; the last vocabulary leaves ranks without
// rows.
const Problem kProblems[] = {{11, 30}, {11, 31, 0.7}, {5000, 31},         {9001, 7, 2.0},
                             {40, 3},  {1, 50},       {11, 31, 1.0, 1e4}, {6, 1}};

}  // namespace

BOOST_AUTO_TEST_SUITE(log_probs)

BOOST_AUTO_TEST_CASE(the_large_problems_take_several_chunks) {
  BOOST_TEST(archon::logit_chunk_tokens(Problem{}.width) < 5000);
  // A head of no width makes no chunks of nothing, a wide one no chunk without end.
  BOOST_TEST(archon::logit_chunk_tokens(1) == 16);
  BOOST_TEST(archon::logit_chunk_tokens(int64_t{1} << 40) == 1024);
  // In between a chunk's logits take no more memory than the head's weight.
  for (const int64_t width : {16, 768, 1024})
    BOOST_TEST(archon::logit_chunk_tokens(width) <= width);
}

BOOST_AUTO_TEST_CASE(log_probs_and_entropy_equal_the_definition) {
  const Communicator tp = world_group();
  for (const Problem& problem : kProblems)
    BOOST_TEST_CONTEXT(problem.tokens << " tokens, vocabulary " << problem.vocab) {
      Reference want(problem);
      const Share share(problem, tp, at::kFloat);
      const auto got =
          archon::vocab_parallel_log_probs(share.hidden, share.head, problem.labels(), true);
      BOOST_TEST((got.log_probs.scalar_type() == at::kFloat));
      ARCHON_CHECK_NEAR(got.log_probs.detach().cpu(), want.log_probs.detach(), 2e-6);
      if (problem.vocab > 1 && problem.logit_scale < 100)
        ARCHON_CHECK_NEAR(got.entropy.detach().cpu(), want.entropy.detach(), 5e-6);
      BOOST_TEST(got.entropy.isfinite().all().item<bool>());
      const at::Tensor probe = noise({problem.tokens}, 9);
      want.log_probs.backward(probe);
      got.log_probs.backward(probe.to(at::kFloat).to(device()));
      if (problem.vocab > 1) share.check_gradients(want, tp, 1e-5);
    }
}

BOOST_AUTO_TEST_CASE(gradients_of_entropy_equal_the_definition) {
  const Communicator tp = world_group();
  for (const Problem& problem : kProblems)
    for (const double with_log_probs : {0.0, 1.0})
      BOOST_TEST_CONTEXT(problem.tokens << " tokens, vocabulary " << problem.vocab
                                        << ", log-probabilities " << with_log_probs) {
        if (problem.vocab == 1 || problem.logit_scale > 100) continue;
        Reference want(problem);
        const Share share(problem, tp, at::kFloat);
        const auto got =
            archon::vocab_parallel_log_probs(share.hidden, share.head, problem.labels(), true);
        const at::Tensor of_entropy = noise({problem.tokens}, 8);
        const at::Tensor of_log_probs = noise({problem.tokens}, 9).mul(with_log_probs);
        (want.entropy * of_entropy + want.log_probs * of_log_probs).sum().backward();
        (got.entropy.cpu() * of_entropy + got.log_probs.cpu() * of_log_probs).sum().backward();
        share.check_gradients(want, tp, 2e-5);
      }
}

// Autograd's answer is checked against the definition's own slope.
BOOST_AUTO_TEST_CASE(gradients_of_entropy_equal_finite_differences) {
  const Communicator tp = world_group();
  const Problem problem = {4, 7, 0.7, 1.0};
  const Share share(problem, tp, at::kFloat);
  archon::vocab_parallel_log_probs(share.hidden, share.head, problem.labels(), true)
      .entropy.sum()
      .backward();
  at::Tensor gradient = share.hidden.grad().clone();
  tp.all_reduce(gradient);
  gradient = gradient.cpu();
  const auto entropy_at = [&](const at::Tensor& hidden) {
    const at::Tensor p = hidden.matmul(problem.weight().t()).div(problem.temperature).softmax(1);
    return -(p * p.log()).sum(1).mul(problem.labels().ge(0)).sum().item<double>();
  };
  const double step = 1e-5;
  at::Tensor slopes = at::zeros_like(problem.hidden());
  for (int64_t i = 0; i < slopes.numel(); ++i) {
    at::Tensor above = problem.hidden().clone(), below = problem.hidden().clone();
    above.mutable_data_ptr<double>()[i] += step;
    below.mutable_data_ptr<double>()[i] -= step;
    slopes.mutable_data_ptr<double>()[i] = (entropy_at(above) - entropy_at(below)) / (2 * step);
  }
  ARCHON_CHECK_NEAR(gradient, slopes, 1e-5);
}

BOOST_AUTO_TEST_CASE(cross_entropy_equals_the_definition) {
  const Communicator tp = world_group();
  for (const Problem& problem : kProblems)
    BOOST_TEST_CONTEXT(problem.tokens << " tokens, vocabulary " << problem.vocab) {
      Reference want(problem);
      const Share share(problem, tp, at::kFloat);
      const at::Tensor weights = problem.weights();
      const at::Tensor loss =
          archon::linear_cross_entropy(share.hidden, share.head, problem.labels(), weights);
      BOOST_TEST((loss.scalar_type() == at::kDouble));
      BOOST_TEST(loss.sizes() == at::IntArrayRef({1}));
      const at::Tensor want_loss = -(want.log_probs * weights).sum().view({1});
      ARCHON_CHECK_NEAR(loss.detach(), want_loss.detach(), 1e-6);
      want_loss.backward(at::zeros({1}, at::kDouble).fill_(0.25));
      loss.backward(at::zeros({1}, at::kDouble).fill_(0.25));
      if (problem.vocab > 1) share.check_gradients(want, tp, 1e-5);
    }
}

BOOST_AUTO_TEST_CASE(bfloat16_logits_are_computed_on_in_float32) {
  const Communicator tp = world_group();
  const Problem problem = {50, 31, 1.0, 1.0};
  Reference want(problem, at::kBFloat16);
  const Share share(problem, tp, at::kBFloat16);
  const at::Tensor loss =
      archon::linear_cross_entropy(share.hidden, share.head, problem.labels(), problem.weights());
  const at::Tensor want_loss = -(want.log_probs * problem.weights()).sum().view({1});
  ARCHON_CHECK_NEAR(loss.detach(), want_loss.detach(), 2e-3);
  want_loss.backward();
  loss.backward();
  share.check_gradients(want, tp, 1e-2);
}

BOOST_AUTO_TEST_CASE(all_ranks_hold_the_same_bits) {
  const Communicator tp = world_group();
  const Problem problem = {100, 31};
  const Share share(problem, tp, at::kFloat);
  const at::Tensor got =
      archon::vocab_parallel_log_probs(share.hidden, share.head, problem.labels()).log_probs;
  at::Tensor first = got.detach().clone();
  tp.broadcast(first, 0);
  BOOST_TEST(first.equal(got.detach()));
}

BOOST_AUTO_TEST_CASE(without_weights_nothing_is_lost_or_learnt) {
  const Communicator tp = world_group();
  for (const int64_t tokens : {0, 12}) {
    const Problem problem = {tokens, 31};
    const Share share(problem, tp, at::kFloat);
    const at::Tensor loss = archon::linear_cross_entropy(share.hidden, share.head, problem.labels(),
                                                         at::zeros({tokens}));
    BOOST_TEST(loss.item<double>() == 0);
    loss.backward();
    BOOST_TEST(share.hidden.grad().sizes() == share.hidden.sizes());
    BOOST_TEST(share.hidden.grad().eq(0).all().item<bool>());
    BOOST_TEST(share.weight.grad().eq(0).all().item<bool>());
  }
}

BOOST_AUTO_TEST_CASE(a_token_without_label_has_no_part) {
  const Communicator tp = world_group();
  const Problem problem = {10, 31};
  const Share share(problem, tp, at::kFloat);
  const at::Tensor labels = problem.labels();
  const auto got = archon::vocab_parallel_log_probs(share.hidden, share.head, labels, true);
  (got.log_probs + got.entropy).backward(noise({10}, 5).to(at::kFloat).to(device()));
  for (int64_t t = 2; t < 10; t += 5) {
    BOOST_TEST(got.log_probs[t].item<float>() == 0);
    BOOST_TEST(got.entropy[t].item<float>() == 0);
    BOOST_TEST(share.hidden.grad()[t].eq(0).all().item<bool>());
  }
}

// They reach no product: garbage in them touches neither results nor gradients.
BOOST_AUTO_TEST_CASE(tokens_without_label_are_not_computed) {
  const Communicator tp = world_group();
  const Problem problem = {10, 31};
  const Share clean(problem, tp, at::kFloat), dirty(problem, tp, at::kFloat);
  const at::Tensor labels = problem.labels();
  const double nan = std::nan("");
  for (const Share* share : {&clean, &dirty}) {
    at::Tensor hidden = share->hidden.detach();
    if (share == &dirty) hidden.masked_fill_(labels.lt(0).unsqueeze(1).to(device()), nan);
    const auto got = archon::vocab_parallel_log_probs(share->hidden, share->head, labels, true);
    (got.log_probs + got.entropy).backward(noise({10}, 5).to(at::kFloat).to(device()));
  }
  BOOST_TEST(dirty.hidden.grad().equal(clean.hidden.grad()));
  BOOST_TEST(dirty.weight.grad().equal(clean.weight.grad()));
  const auto none =
      archon::vocab_parallel_log_probs(dirty.hidden, dirty.head, at::full_like(labels, -1), true);
  (none.log_probs + none.entropy).sum().backward();
  BOOST_TEST(none.entropy.eq(0).all().item<bool>());
}

// The likeliest two, a rounding apart, lie on different ranks.
BOOST_AUTO_TEST_CASE(low_temperatures_round_no_log_probability) {
  const Communicator tp = world_group();
  constexpr int64_t kVocab = 48;
  const Range rows = even_range(kVocab, tp.size(), tp.rank());
  const std::vector<int64_t> likeliest = {7, 40};
  at::Tensor logits = noise({kVocab}, 6).to(at::kFloat);
  logits[likeliest[0]] = 20.3F;
  logits[likeliest[1]] = std::nextafter(20.3F, 0.0F);
  const at::Tensor weight = at::zeros({rows.size(), 8}), hidden = at::zeros({2, 8});
  weight.select(1, 0).copy_(logits.narrow(0, rows.begin, rows.size()));
  hidden.select(1, 0).fill_(1);
  for (const double temperature : {1e-4, 1e-6, 1e-8})
    BOOST_TEST_CONTEXT("temperature " << temperature) {
      const at::Tensor z = leaf(logits.to(at::kDouble)), mine = leaf(weight.to(device()));
      const at::Tensor all = at::log_softmax(z / temperature, 0);
      const auto got = archon::vocab_parallel_log_probs(
          hidden.to(device()), {mine, kVocab, tp, temperature}, at::tensor(likeliest), true);
      const at::Tensor want = all.index_select(0, at::tensor(likeliest));
      const double entropy = -(all.exp() * all).sum().item<double>();
      for (int64_t i = 0; i < 2; ++i) {
        BOOST_CHECK_CLOSE(got.log_probs[i].item<double>(), want[i].item<double>(), 1e-3);
        BOOST_CHECK_SMALL(got.entropy[i].item<double>() - entropy, 1e-5);
      }
      want.sum().backward();
      got.log_probs.sum().backward();
      ARCHON_CHECK_NEAR(mine.grad().select(1, 0).cpu() * temperature,
                        z.grad().narrow(0, rows.begin, rows.size()) * temperature, 1e-5);
    }
}

// At temperatures whose reciprocal is rounded, the sum of a peaked row came out below 1.
BOOST_AUTO_TEST_CASE(no_probability_is_above_1) {
  const Communicator tp = world_group();
  constexpr int64_t kVocab = 48, kTokens = 600;
  const Range rows = even_range(kVocab, tp.size(), tp.rank());
  const at::Tensor hidden = noise({kTokens, 8}, 5).to(at::kFloat), whole = at::zeros({kVocab, 8});
  whole[7].copy_(noise({8}, 6)).mul_(9);
  const at::Tensor logits = hidden.matmul(whole.t());
  const at::Tensor labels = logits.argmax(1);
  for (const double temperature : {0.6, 0.7, 0.8, 1.0}) {
    const VocabParallelHead head{whole.narrow(0, rows.begin, rows.size()), kVocab, tp, temperature};
    BOOST_TEST(
        archon::vocab_parallel_log_probs(hidden, head, labels).log_probs.max().item<float>() <= 0);
    const std::vector<archon::Draw> draws(kTokens);
    BOOST_TEST(
        archon::draw_tokens(hidden, head, draws, {.greedy = true}).log_probs.max().item<float>() <=
        0);
  }
}

BOOST_AUTO_TEST_SUITE_END()
