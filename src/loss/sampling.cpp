#include "archon/loss/sampling.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "archon/base/error.hpp"
#include "archon/parallel/partition.hpp"
#include "sampling_kernels.hpp"
#include "softmax_kernels.hpp"

namespace archon {
namespace {

/// This tp rank's share even_range(rows, tp) of the rows, with the logits of the whole vocabulary:
/// tp ranks draw for different rows.
at::Tensor share_of_rows(const at::Tensor& local, const VocabParallelHead& head) {
  const Communicator& tp = head.tp;
  if (tp.size() == 1) return local;
  const auto rows = even_sizes(local.size(0), tp.size());
  const auto vocab = even_sizes(head.vocab_size, tp.size());
  const int64_t mine = rows[tp.rank()];
  std::vector<int64_t> sent(tp.size()), received(tp.size());
  for (int r = 0; r < tp.size(); ++r) {
    sent[r] = rows[r] * local.size(1);
    received[r] = mine * vocab[r];
  }
  const at::Tensor parts = at::empty({mine * head.vocab_size}, local.options());
  tp.all_to_all(parts, local.contiguous().view({-1}), received, sent);
  std::vector<at::Tensor> columns;
  int64_t begin = 0;
  for (int r = 0; r < tp.size(); begin += received[r++])
    columns.push_back(parts.narrow(0, begin, received[r]).view({mine, vocab[r]}));
  return at::cat(columns, 1);
}

/// The tokens that top_k and top_p leave; `stats` are those of the logits. They are sorted no
/// farther than needed.
std::vector<int64_t> candidates(const float* logits, int64_t vocab, float scale,
                                const kernels::SoftmaxStats& stats,
                                const SamplingOptions& options) {
  const auto likelier = [&](int64_t a, int64_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  };
  std::vector<int64_t> tokens(vocab);
  std::iota(tokens.begin(), tokens.end(), 0);
  int64_t sorted = 0;
  const auto sort_up_to = [&](int64_t count) {
    std::partial_sort(tokens.begin() + sorted, tokens.begin() + count, tokens.end(), likelier);
    sorted = count;
  };
  const int64_t kept = options.top_k > 0 ? std::min(options.top_k, vocab) : vocab;
  if (kept < vocab) {
    std::nth_element(tokens.begin(), tokens.begin() + kept, tokens.end(), likelier);
    tokens.resize(kept);
  }
  if (options.top_p == 1) return tokens;

  const auto weight = [&](int64_t token) {
    return std::exp(double{scale} * (double{logits[token]} - stats.max));
  };
  double sum = 0, total = stats.sum;
  if (kept < vocab) {
    total = 0;
    for (const int64_t token : tokens) total += weight(token);
  }
  for (int64_t count = 0; count < kept; ++count) {
    if (count == sorted) sort_up_to(std::min(std::max<int64_t>(64, 4 * sorted), kept));
    sum += weight(tokens[count]);
    if (sum >= options.top_p * total) return {tokens.begin(), tokens.begin() + count + 1};
  }
  return tokens;
}

uint64_t key_of(const Draw& draw, uint64_t seed) {
  uint64_t key = seed;
  for (const int64_t number : {draw.group, draw.sample, draw.position})
    key = kernels::mix(key) ^ static_cast<uint64_t>(number);
  return kernels::mix(key);
}

int64_t draw_token(const float* logits, int64_t vocab, float scale,
                   const kernels::SoftmaxStats& stats, const Draw& draw,
                   const SamplingOptions& options) {
  if (options.greedy) return kernels::index_of_largest(logits, vocab);
  const uint64_t key = key_of(draw, options.seed);
  if (options.top_k == 0 && options.top_p == 1) {
    std::vector<float> noise(vocab);
    kernels::gumbel_noise(noise.data(), 0, vocab, key);
    kernels::add_logits(noise.data(), logits, vocab, scale);
    return kernels::index_of_largest(noise.data(), vocab);
  }
  int64_t best = -1;
  float largest = 0;
  for (const int64_t token : candidates(logits, vocab, scale, stats, options)) {
    float noise = 0;
    kernels::gumbel_noise(&noise, token, 1, key);
    const float score = scale * logits[token] + noise;
    if (best >= 0 && score <= largest) continue;
    best = token;
    largest = score;
  }
  return best;
}

/// Draws for a chunk of rows.
DrawnTokens draw_chunk(const at::Tensor& hidden, const VocabParallelHead& head, const Draw* draws,
                       const SamplingOptions& options) {
  const int64_t vocab = head.vocab_size;
  const Range mine = even_range(hidden.size(0), head.tp.size(), head.tp.rank());
  const auto scale = static_cast<float>(1.0 / head.temperature);
  // The head's own temperature stays out of the logits, as in vocab_parallel_log_probs.
  const at::Tensor logits =
      share_of_rows(local_logits(hidden, {head.weight, vocab, head.tp}), head).contiguous();
  const at::Tensor tokens = at::empty({mine.size()}, at::kLong);
  const at::Tensor log_probs = at::empty({mine.size()}, at::kFloat);
  at::parallel_for(0, mine.size(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = logits.const_data_ptr<float>() + i * vocab;
      const kernels::SoftmaxStats stats = kernels::softmax_stats(row, vocab, scale);
      const int64_t token = draw_token(row, vocab, scale, stats, draws[mine.begin + i], options);
      tokens.data_ptr<int64_t>()[i] = token;
      log_probs.data_ptr<float>()[i] = kernels::log_prob(row[token], stats, scale);
    }
  });
  if (head.tp.size() == 1) return {tokens, log_probs};
  const auto whole = [&](const at::Tensor& part) {
    const at::Tensor all = at::empty({hidden.size(0)}, part.options());
    head.tp.all_gather(all, part, even_sizes(hidden.size(0), head.tp.size()));
    return all;
  };
  return {whole(tokens), whole(log_probs)};
}

}  // namespace

DrawnTokens draw_tokens(const at::Tensor& hidden, const VocabParallelHead& head,
                        const std::vector<Draw>& draws, const SamplingOptions& options) {
  ARCHON_EXPECT(hidden.size(0) == static_cast<int64_t>(draws.size()));
  const int64_t step = logit_chunk_tokens(head.weight.size(1));
  std::vector<at::Tensor> tokens, log_probs;
  for (int64_t begin = 0; begin < hidden.size(0); begin += step) {
    const int64_t count = std::min(step, hidden.size(0) - begin);
    const DrawnTokens drawn =
        draw_chunk(hidden.narrow(0, begin, count), head, draws.data() + begin, options);
    tokens.push_back(drawn.tokens);
    log_probs.push_back(drawn.log_probs);
  }
  return {at::cat(tokens), at::cat(log_probs)};
}

}  // namespace archon
