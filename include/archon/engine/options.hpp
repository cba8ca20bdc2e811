#pragma once

#include <ATen/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <vector>

#include "archon/checkpoint/checkpoint_writer.hpp"
#include "archon/loss/policy.hpp"
#include "archon/mesh/mesh.hpp"
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
  at::ScalarType dtype = at::kFloat;  ///< compute type: float32 or bfloat16
  MemoryOptions memory;
  int64_t micro_batch_tokens = 4096;  ///< per dp rank, before slicing over cp
  int64_t pad_limit = 64;             ///< cap of the page tokens
  int64_t max_sequence = 0;           ///< longest sequence accepted; 0 = any
  uint64_t seed = 0;
};

enum class LossKind { sft, critic, grpo, gspo };
std::string to_string(LossKind kind);
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
  LossKind loss = LossKind::sft;
  double value_eps_clip = 0.0;         ///< critic; 0 = no clipping
  PolicyLossOptions policy;            ///< grpo, gspo
  bool proximal_is_behaviour = false;  ///< grpo, gspo: no proximal policy of its own
  int64_t steps = 0;                   ///< absolute last step; 0 = take epochs
  int64_t epochs = 0;
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

}  // namespace archon
