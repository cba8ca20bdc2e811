#pragma once

#include <ATen/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "archon/checkpoint/checkpoint_writer.hpp"
#include "archon/loss/advantages.hpp"
#include "archon/loss/aggregate.hpp"
#include "archon/loss/critic.hpp"
#include "archon/loss/dpo.hpp"
#include "archon/loss/kl.hpp"
#include "archon/loss/policy.hpp"
#include "archon/mesh/topology.hpp"
#include "archon/model/model.hpp"
#include "archon/optim/optimizer.hpp"
#include "archon/optim/schedule.hpp"

namespace archon {

/// What memory is spent on.
struct MemoryOptions {
  ShardMode shard = ShardMode::full;
  bool reshard_after_forward = true;
  ActivationOptions activations;
  bool overlap = true;  ///< communicate while computing; off only to measure what that gains
};

/// What a model runs on and how: shared by train, eval and forward.
struct RunOptions {
  std::string model;                  ///< HF folder
  std::string data;                   ///< HDF5 token dataset
  MeshShape mesh;                     ///< as given; one axis may be -1
  DeviceChoice device = DeviceChoice::automatic;
  at::ScalarType dtype = at::kFloat;  ///< compute type: float32 or bfloat16
  MemoryOptions memory;
  int64_t micro_batch_tokens = 4096;  ///< per dp rank, before slicing over cp
  int64_t pad_limit = 64;             ///< cap of the page tokens
  int64_t max_sequence = 0;           ///< longest sequence accepted; 0 = any
  uint64_t seed = 0;
};

enum class LossKind { sft, critic, grpo, ppo, gspo, sapo, dpo };
std::string to_string(LossKind kind);

/// The policy that ratios are taken to, and where its log-probabilities come from.
enum class Proximal {
  automatic,  ///< the file if it has them, else recompute
  file,
  recompute,  ///< the trained model's when the file's turn comes
  behaviour   ///< the behaviour policy itself
};

/// What is minimised, and what it is computed from.
struct LossOptions {
  LossKind kind = LossKind::sft;
  Aggregate aggregate = Aggregate::token_mean;
  double length_divisor = 1.0;  ///< sequence_sum
  double temperature = 1.0;     ///< of the policies: logits are divided by it
  PolicyLossOptions policy;
  double eps_clip_higher = -1;  ///< in place of policy's own; below 0: as policy.eps_clip
  Proximal proximal = Proximal::automatic;
  double kl_coefficient = 0;  ///< KL to the reference policy; 0 = off
  KlEstimator kl_estimator = KlEstimator::k3;
  bool kl_in_reward = false;       ///< taken off the rewards, in place of added to the loss
  double entropy_coefficient = 0;  ///< entropy bonus; 0 = off
  std::string reference;           ///< model of ref_logprobs: HF folder or checkpoint
  std::string critic_model;        ///< model of old_values: the same
  AdvantageOptions advantages;            ///< but for the norm and the KL reward
  std::optional<RewardNorm> reward_norm;  ///< none given: group, or none where there are values
  CriticLossOptions critic;
  DpoOptions dpo;

  /// grpo, ppo, gspo, sapo
  bool is_policy_gradient() const;
  /// ppo, critic: advantages and returns come from a critic's values.
  bool uses_values() const;
  RewardNorm norm_of_rewards() const;
  bool kl_in_loss() const { return kl_coefficient > 0 && !kl_in_reward; }
};
enum class OptimizerKind { adamw, sgd };

/// When checkpoints are saved, how, and how many stay.
struct SaveOptions {
  int64_t every = 0;   ///< steps; 0 = not by steps
  double minutes = 0;  ///< 0 = not by the clock
  CheckpointOptions checkpoint;
  int64_t keep = 0;  ///< the newest so many stay; 0 = all
  /// Whether saves are planned, the one at the end included. A signal asks for one in any case.
  bool planned() const { return every > 0 || minutes > 0; }
};

/// What --record writes and when.
struct RecordOptions {
  std::string file;  ///< empty = no record
  int64_t first_step = 1, last_step = 1;
  bool gradients = true, weights = true, activations = true;
  bool covers(int64_t step) const {
    return !file.empty() && step >= first_step && step <= last_step;
  }
};

/// What --profile writes and when.
struct ProfileOptions {
  std::string file;  ///< empty = no profile
  int64_t first_step = 2, last_step = 4;
};

/// Where weights go while training goes on.
struct WeightSyncOptions {
  std::string publish;        ///< folder; empty = none
  int64_t publish_every = 1;  ///< steps
  int64_t publish_keep = 2;   ///< the newest so many versions stay; 0 = all
  std::string push_role;      ///< of a program of the same job; empty = none
  int64_t push_every = 1;     ///< steps
  bool push_wait = true;      ///< for the consumer, or leave a version out
  int64_t push_bucket_bytes = int64_t{64} << 20;
};

struct TrainOptions {
  RunOptions run;
  std::string output;
  LossOptions loss;
  int64_t steps = 0;             ///< absolute last step; 0 = take epochs
  int64_t epochs = 0;            ///< passes over the data, over each file of a folder
  double data_wait = 0;          ///< seconds to wait for another file of a folder
  int64_t batch_sequences = 32;  ///< global, 0 = the whole file
  bool shuffle = true;
  OptimizerKind optimizer = OptimizerKind::adamw;
  AdamWOptions adamw;
  std::vector<std::string> no_decay;  ///< glob patterns of HF names
  double clip_grad_norm = 1.0;        ///< 0 = off
  int64_t max_skipped_steps = 10;     ///< in a row, for a norm that is not finite; 0 = any number
  LrSchedule schedule;                ///< total_steps is filled in by the trainer
  SaveOptions save;
  std::string resume = "auto";  ///< auto, none (refuse a used output folder), or a checkpoint
  RecordOptions record;
  ProfileOptions profile;
  std::string eval_data;
  int64_t eval_every = 0;
  WeightSyncOptions sync;
  bool save_hf = true;  ///< write OUTPUT/hf at the end
  int64_t max_shard_bytes = int64_t{5} << 30;
};

/// What `forward` writes.
struct ForwardOptions {
  RunOptions run;
  std::string output;
  bool logprobs = true, entropy = false, logits = false, values = false, hidden = false;
  double temperature = 1.0;
};

/// What `generate` draws and writes.
struct GenerateOptions {
  RunOptions run;
  std::string output;
  int64_t group_size = 1;      ///< rollouts of each prompt
  int64_t max_new_tokens = 128;
  double temperature = 1.0;    ///< 0 = greedy
  int64_t top_k = 0;           ///< 0 = all
  double top_p = 1.0;
  /// Tokens that end a rollout; absent: those that the model's folder names.
  std::optional<std::vector<int64_t>> stop_tokens;
  int64_t batch_sequences = 64;  ///< rollouts that a data-parallel rank works on at a time
  int64_t cache_tokens = 0;      ///< most tokens that they may come to hold; 0 = any number
};

}  // namespace archon
