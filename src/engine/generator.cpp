#include "archon/engine/generator.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "archon/base/error.hpp"
#include "archon/engine/objective.hpp"
#include "archon/parallel/collectives.hpp"

namespace archon {
namespace {

/// What sequences add to their caches in one pass of the model.
class Stream {
 public:
  void append(std::span<const int64_t> tokens, KeyValueCache& cache) {
    for (const int64_t token : tokens) {
      positions_.push_back(cache.length() + static_cast<int64_t>(positions_.size()) -
                           cu_seqlens_.back());
      tokens_.push_back(token);
    }
    cu_seqlens_.push_back(size());
    caches_.push_back(&cache);
    longest_ = std::max(longest_, static_cast<int64_t>(tokens.size()));
  }

  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  bool empty() const { return caches_.empty(); }

  /// Padded to a multiple of tp. The stream is empty afterwards.
  ModelInput take_input(int tp) {
    while (size() % tp != 0) {
      tokens_.push_back(0);
      positions_.push_back(0);
    }
    ModelInput input{at::tensor(tokens_), at::tensor(positions_), cu_seqlens_, longest_, caches_};
    *this = Stream();
    return input;
  }

 private:
  std::vector<int64_t> tokens_, positions_, cu_seqlens_ = {0};
  std::vector<KeyValueCache*> caches_;
  int64_t longest_ = 0;
};

}  // namespace

Generator::Generator(Model& model, const Mesh& mesh, const GenerateOptions& options,
                     std::vector<int64_t> stop_tokens)
    : model_(model),
      mesh_(mesh),
      options_(options),
      sampling_{.greedy = options.temperature == 0,
                .top_k = options.top_k,
                .top_p = options.top_p,
                .seed = options.run.seed},
      stop_tokens_(std::move(stop_tokens)) {}

void Generator::add_prompt(int64_t group, std::vector<int64_t> prompt) {
  ARCHON_EXPECT(!prompt.empty());
  waiting_.push_back({group, std::move(prompt), 0, nullptr});
  unfinished_ += options_.group_size;
}

int64_t Generator::room_for(const Prompt& prompt) const {
  return static_cast<int64_t>(prompt.tokens.size()) + options_.max_new_tokens - 1;
}

/// Rollouts that there is room for, in the order of their prompts, as far as one pass of the model
/// computes what their prompts lack. One fits in any case.
std::vector<Generator::Start> Generator::admit() {
  std::vector<Start> starts;
  const auto has_room = [&](int64_t room) {
    const auto count = static_cast<int64_t>(running_.size() + starts.size());
    if (count == 0) return true;
    return count < options_.batch_sequences &&
           (options_.cache_tokens == 0 || reserved_ + room <= options_.cache_tokens);
  };
  int64_t pass_tokens = 0;
  for (Prompt& prompt : waiting_) {
    const int64_t lacking = prompt.cache ? 0 : static_cast<int64_t>(prompt.tokens.size()) - 1;
    if (pass_tokens > 0 && pass_tokens + lacking > options_.run.micro_batch_tokens) return starts;
    pass_tokens += lacking;
    for (; prompt.samples < options_.group_size; ++prompt.samples) {
      if (!has_room(room_for(prompt))) return starts;
      reserved_ += room_for(prompt);
      starts.push_back({&prompt, prompt.samples});
    }
  }
  return starts;
}

/// Computes the keys and values of prompts that have none yet, in one pass; false if none is left.
bool Generator::fill_caches(const std::vector<Start>& starts) {
  Stream stream;
  for (const auto& [prompt, sample] : starts) {
    if (prompt->cache) continue;
    prompt->cache = std::make_unique<KeyValueCache>(model_.config(), mesh_.shape().tp,
                                                    model_.sharding().policy().compute_dtype);
    if (prompt->tokens.size() > 1)
      stream.append({prompt->tokens.data(), prompt->tokens.size() - 1}, *prompt->cache);
  }
  if (stream.empty()) return false;
  model_.forward(stream.take_input(mesh_.shape().tp), [](const at::Tensor& x) { return x; });
  return true;
}

/// The next token of every running rollout.
DrawnTokens Generator::draw() {
  Stream stream;
  std::vector<Draw> draws;
  for (Running& running : running_) {
    const Rollout& rollout = running.rollout;
    stream.append({&rollout.tokens.back(), 1}, running.cache);
    draws.push_back({rollout.group, rollout.sample, rollout.length()});
  }
  const double temperature = sampling_.greedy ? 1.0 : options_.temperature;
  DrawnTokens drawn;
  model_.forward(stream.take_input(mesh_.shape().tp), [&](const at::Tensor& share) {
    const at::Tensor hidden = differentiable::all_gather(share, mesh_.tp())
                                  .narrow(0, 0, static_cast<int64_t>(draws.size()));
    drawn = draw_tokens(hidden, vocab_parallel_head(model_, mesh_, temperature), draws, sampling_);
    return share;
  });
  return drawn;
}

bool Generator::ended(const Rollout& rollout) const {
  return rollout.completion_length() == options_.max_new_tokens ||
         std::count(stop_tokens_.begin(), stop_tokens_.end(), rollout.tokens.back()) > 0;
}

std::vector<Rollout> Generator::step() {
  const at::NoGradGuard no_grad;
  const PackedOperands::Scope packed(weights_);
  const std::vector<Start> starts = admit();
  const bool filled = fill_caches(starts);
  for (const auto& [prompt, sample] : starts)
    running_.push_back({{.group = prompt->group,
                         .sample = sample,
                         .prompt_length = static_cast<int64_t>(prompt->tokens.size()),
                         .tokens = prompt->tokens,
                         .log_probs = {}},
                        prompt->cache->fork(),
                        room_for(*prompt)});
  while (!waiting_.empty() && waiting_.front().samples == options_.group_size) waiting_.pop_front();
  if (filled || running_.empty()) return {};

  const DrawnTokens drawn = draw();
  std::vector<Rollout> finished;
  std::vector<Running> going_on;
  for (std::size_t i = 0; i < running_.size(); ++i) {
    Rollout& rollout = running_[i].rollout;
    const float log_prob = drawn.log_probs.const_data_ptr<float>()[i];
    ARCHON_ENSURE(std::isfinite(log_prob),
                  "token {} after prompt {} was drawn with log-probability {}; the model's logits "
                  "are not finite there, so its weights may be damaged",
                  rollout.completion_length(), rollout.group, log_prob);
    rollout.tokens.push_back(drawn.tokens.const_data_ptr<int64_t>()[i]);
    rollout.log_probs.push_back(log_prob);
    if (ended(rollout)) {
      reserved_ -= running_[i].room;
      finished.push_back(std::move(rollout));
    } else {
      going_on.push_back(std::move(running_[i]));
    }
  }
  running_ = std::move(going_on);
  unfinished_ -= static_cast<int64_t>(finished.size());
  return finished;
}

}  // namespace archon
