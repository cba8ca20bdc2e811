#pragma once

#include <ATen/ops/tensor.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "archon/io/hdf5.hpp"

namespace archon::test {

/// Made-up rollouts: groups lie scattered in the file; one sequence has no target, some answers are
/// one token long, and the rewards of one group are all alike.
struct RolloutFile {
  struct Rollout {
    std::vector<int64_t> tokens;
    std::vector<uint8_t> mask;
    std::vector<float> log_probs;
    double reward = 0;
    int64_t group = 0;
  };
  std::vector<Rollout> rollouts;
  bool drop_last_reward = false;
  int64_t last_offset = -1;  // in place of the right one
  float reference = 0;       // /ref_logprobs everywhere; 0 = none
  float advantage = 0;       // /advantages everywhere; 0 = none
  double temperature = 0;    // of sampling; 0 = none said

  explicit RolloutFile(uint64_t seed = 0, int64_t groups = 4, int64_t of_group = 4) {
    std::mt19937_64 generator(seed);
    const auto below = [&](int64_t n) { return static_cast<int64_t>(generator() % n); };
    for (int64_t i = 0; i < groups * of_group; ++i) {
      Rollout rollout;
      rollout.group = i % groups;
      const int64_t prompt = 1 + below(5), answer = i % 5 == 0 ? 1 : 1 + below(18);
      for (int64_t t = 0; t < prompt + answer; ++t) {
        rollout.tokens.push_back(below(200));
        rollout.mask.push_back(t >= prompt && i != 6);
        rollout.log_probs.push_back(t < prompt ? 0.0F : -4.0F - below(1000) / 400.0F);
      }
      rollout.reward = rollout.group == 1 ? 0.5 : below(1000) / 500.0 - 1;
      rollouts.push_back(rollout);
    }
  }

  void write(const std::string& path) const {
    std::vector<int64_t> tokens, offsets = {0}, groups;
    std::vector<uint8_t> mask;
    std::vector<float> log_probs, rewards;
    for (const Rollout& rollout : rollouts) {
      tokens.insert(tokens.end(), rollout.tokens.begin(), rollout.tokens.end());
      mask.insert(mask.end(), rollout.mask.begin(), rollout.mask.end());
      log_probs.insert(log_probs.end(), rollout.log_probs.begin(), rollout.log_probs.end());
      offsets.push_back(static_cast<int64_t>(tokens.size()));
      rewards.push_back(static_cast<float>(rollout.reward));
      groups.push_back(rollout.group);
    }
    if (drop_last_reward) rewards.pop_back();
    if (last_offset >= 0) offsets.back() = last_offset;
    h5::File file = h5::File::create(path, "archon.rollouts", 1);
    file.write("/input_ids", at::tensor(tokens, at::kLong));
    file.write("/cu_seqlens", at::tensor(offsets, at::kLong));
    file.write("/loss_mask", at::tensor(mask, at::kByte));
    file.write("/logprobs", at::tensor(log_probs, at::kFloat));
    file.write("/rewards", at::tensor(rewards, at::kFloat));
    file.write("/group_ids", at::tensor(groups, at::kLong));
    if (reference != 0)
      file.write("/ref_logprobs", at::tensor(std::vector<float>(tokens.size(), reference)));
    if (advantage != 0)
      file.write("/advantages", at::tensor(std::vector<float>(tokens.size(), advantage)));
    if (temperature != 0) file.set_attribute("/", "temperature", temperature);
    file.flush();
  }
};

}  // namespace archon::test
