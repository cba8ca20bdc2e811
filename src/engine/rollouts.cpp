#include "archon/engine/rollouts.hpp"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <tuple>

#include "archon/checkpoint/token_outputs.hpp"

namespace archon {
namespace {

template <class T>
std::vector<T> gather(const std::vector<T>& mine, const Communicator& dp) {
  const at::Tensor all = gather_rows_over_dp(at::tensor(mine), dp);
  const T* begin = all.const_data_ptr<T>();
  return {begin, begin + all.numel()};
}

}  // namespace

std::vector<Rollout> collect_rollouts(const std::vector<Rollout>& mine, const Mesh& mesh) {
  if (!mesh.is_data_parallel_head()) return {};
  std::vector<int64_t> facts, tokens;
  std::vector<float> log_probs;
  for (const Rollout& r : mine) {
    facts.insert(facts.end(), {r.group, r.sample, r.prompt_length, r.length()});
    tokens.insert(tokens.end(), r.tokens.begin(), r.tokens.end());
    log_probs.insert(log_probs.end(), r.log_probs.begin(), r.log_probs.end());
  }
  facts = gather(facts, mesh.dp());
  tokens = gather(tokens, mesh.dp());
  log_probs = gather(log_probs, mesh.dp());
  if (mesh.world().rank() != 0) return {};

  std::vector<Rollout> all;
  auto token = tokens.begin();
  auto log_prob = log_probs.begin();
  for (std::size_t i = 0; i < facts.size(); i += 4) {
    const int64_t length = facts[i + 3], completion = length - facts[i + 2];
    all.push_back({facts[i],
                   facts[i + 1],
                   facts[i + 2],
                   {token, token + length},
                   {log_prob, log_prob + completion}});
    token += length;
    log_prob += completion;
  }
  std::sort(all.begin(), all.end(), [](const Rollout& a, const Rollout& b) {
    return std::tie(a.group, a.sample) < std::tie(b.group, b.sample);
  });
  return all;
}

void write_rollouts(h5::File& file, const std::vector<Rollout>& rollouts) {
  std::vector<int64_t> tokens, offsets = {0}, groups, prompt_lengths;
  for (const Rollout& r : rollouts) {
    tokens.insert(tokens.end(), r.tokens.begin(), r.tokens.end());
    offsets.push_back(static_cast<int64_t>(tokens.size()));
    groups.push_back(r.group);
    prompt_lengths.push_back(r.prompt_length);
  }
  const at::Tensor loss_mask = at::zeros({offsets.back()}, at::kByte);
  const at::Tensor log_probs = at::zeros({offsets.back()}, at::kFloat);
  for (std::size_t i = 0; i < rollouts.size(); ++i) {
    const int64_t begin = offsets[i] + rollouts[i].prompt_length;
    std::fill(loss_mask.data_ptr<uint8_t>() + begin, loss_mask.data_ptr<uint8_t>() + offsets[i + 1],
              uint8_t{1});
    std::copy(rollouts[i].log_probs.begin(), rollouts[i].log_probs.end(),
              log_probs.data_ptr<float>() + begin);
  }
  file.write("/input_ids", at::tensor(tokens).to(at::kInt));
  file.write("/cu_seqlens", at::tensor(offsets));
  file.write("/loss_mask", loss_mask);
  file.write("/logprobs", log_probs);
  file.write("/group_ids", at::tensor(groups));
  file.write("/prompt_lengths", at::tensor(prompt_lengths));
}

}  // namespace archon
