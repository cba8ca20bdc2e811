#include <filesystem>
#include <tuple>
#include <utility>
#include <vector>

#include "archon/base/error.hpp"
#include "archon/comm/job.h"
#include "archon/comm/mpi.hpp"
#include "archon/engine/option_words.hpp"
#include "options.hpp"

namespace archon::cli {
namespace {

using Shape = LrSchedule::Shape;

constexpr int64_t kMostEpochs = 1'000'000'000;  // so that steps can be counted
// Added to roots in float32, where smaller ones are 0.
constexpr NumberRange kEps{.low = 1e-30, .words = "a number, 1e-30 or larger"};

void add_length_options(OptionSet& options, TrainOptions& train) {
  options.group("Length");
  options.add("steps", integer<int64_t>(train.steps, 1),
              "last step, counted from the beginning of the run; this or --epochs is needed, but "
              "for a folder of data");
  options.add("epochs", integer<int64_t>(train.epochs, 1, kMostEpochs),
              "passes over the data, in place of --steps; passes over each file of a folder");
  options.add("data-wait", number(train.data_wait, kNotNegative, "SECONDS"),
              "where --data is a folder: wait so long for another file before the run ends");
}

void add_batch_group(OptionSet& options, TrainOptions& train) {
  options.group("Batch");
  options.add("batch-sequences", integer<int64_t>(train.batch_sequences, 0),
              "sequences per step over all ranks; 0 = the whole file");
  options.add("shuffle", on_off(train.shuffle), "draw a new order for each epoch");
  add_batch_options(options, train.run);
}

void add_optimizer_options(OptionSet& options, TrainOptions& train) {
  options.group("Optimizer");
  add_optimizer_option(options, train);
  options.add("lr", number(train.schedule.lr, kNotNegative), "learning rate, the schedule's peak");
  options.add("lr-schedule", choice(train.schedule.shape, kLrScheduleWords),
              "course of the learning rate after the warm-up");
  options.add("warmup-steps", integer<int64_t>(train.schedule.warmup_steps, 0),
              "steps over which the learning rate rises linearly to --lr");
  options.add("min-lr-ratio", number(train.schedule.min_ratio, kFraction),
              "learning rate of the last step as a share of --lr (linear, cosine)");
  options.add("beta1", number(train.adamw.beta1, kBelowOne), "AdamW: decay of the first moment");
  options.add("beta2", number(train.adamw.beta2, kBelowOne), "AdamW: decay of the second moment");
  options.add("eps", number(train.adamw.eps, kEps), "AdamW: added to the denominator");
  options.add("weight-decay", number(train.adamw.weight_decay, kNotNegative),
              "decoupled weight decay, on every parameter");
  options.add("no-decay", texts(train.no_decay, "PATTERN"),
              "parameters without weight decay: a glob of HuggingFace names");
  options.add("clip-grad-norm", number(train.clip_grad_norm, kNotNegative),
              "largest global gradient norm; larger gradients are scaled down; 0 = off");
  options.add(
      "max-skipped-steps", integer<int64_t>(train.max_skipped_steps, 0),
      "end the run with exit code 3 after so many steps in a row whose gradient norm is not "
      "finite (such steps change no weight); 0 = never");
}

void add_evaluation_options(OptionSet& options, TrainOptions& train) {
  options.group("Evaluation on the way");
  options.add("eval-data", text(train.eval_data, "FILE"),
              "HDF5 token dataset held out, with every dataset that the loss needs");
  options.add("eval-every", integer<int64_t>(train.eval_every, 1), "evaluate after every N steps");
}

void add_output_options(OptionSet& options, TrainOptions& train) {
  options.group("Output");
  options.require("output", text(train.output, "DIR"),
                  "folder for metrics.h5, metrics.jsonl, checkpoints/ and hf/ (the trained model)");
  options.add("save-hf", on_off(train.save_hf), "write the trained model to OUTPUT/hf");
  options.add("max-shard-size", bytes(train.max_shard_bytes),
              "largest safetensors file; a larger model is written as several");
}

void add_saving_options(OptionSet& options, TrainOptions& train) {
  using Layout = CheckpointLayout;
  SaveOptions& save = train.save;
  options.group("Checkpoints; SIGUSR1 asks for one at any time, SIGTERM for one and the end");
  options.add("save-every", integer<int64_t>(save.every, 0),
              "save after every so many steps, and at the end; 0 = not by steps");
  options.add("save-minutes", number(save.minutes, kNotNegative, "M"),
              "save when so many minutes have passed, and at the end; 0 = not by the clock");
  options.add("checkpoint-async", on_off(save.checkpoint.async),
              "train on while the disk is written; needs memory for a copy of weights and "
              "optimizer state");
  options.add("checkpoint-layout",
              choice<Layout>(save.checkpoint.layout,
                             {{"shards", Layout::shards}, {"single", Layout::single}}),
              "shards: a file per rank and an index; single: one file, written by all ranks "
              "through MPI-IO");
  options.add("checkpoint-compression", integer<int64_t>(save.checkpoint.compression, 0, 9),
              "deflate, from 1 (fast) to 9 (small); 0 = off");
  options.add("keep", integer<int64_t>(save.keep, 0),
              "remove all but the newest so many checkpoints after each save; 0 = all stay");
  options.add("resume", text(train.resume, "auto|DIR|none"),
              "auto: go on from the newest complete checkpoint in --output, afresh where there is "
              "none; DIR: from this checkpoint; none: refuse an output folder that holds a run");
}

void add_record_options(OptionSet& options, TrainOptions& train) {
  RecordOptions& record = train.record;
  options.group("Record of steps, for comparing runs with archon diff");
  options.add("record", text(record.file, "FILE"),
              "HDF5 file for loss, gradient norm and tensors, whole whatever the mesh");
  options.add("record-steps", step_range(record.first_step, record.last_step), "steps to record");
  options.add("record-what",
              subset({{"gradients", &record.gradients},
                      {"weights", &record.weights},
                      {"activations", &record.activations}}),
              "tensors to record");
}

void add_weight_sync_options(OptionSet& options, TrainOptions& train) {
  WeightSyncOptions& sync = train.sync;
  options.group("Weights for other programs while training goes on");
  options.add("publish", text(sync.publish, "DIR"),
              "folder for HuggingFace folders version-STEP, each complete when it can be seen, and "
              "latest, a link to the newest");
  options.add("publish-every", integer<int64_t>(sync.publish_every, 1),
              "publish after every so many steps, before the first and after the last");
  options.add("publish-keep", integer<int64_t>(sync.publish_keep, 0),
              "remove all but the newest so many versions; 0 = all stay");
  options.add("push-weights", text(sync.push_role, "ROLE"),
              "send weights to the program of this role in the same job, which receives them by "
              "archon_consumer.h");
  options.add("push-every", integer<int64_t>(sync.push_every, 1),
              "push after every so many steps, before the first and after the last");
  options.add("push-wait", on_off(sync.push_wait),
              "wait until the consumer asks for a version; off: a version that it does not wait "
              "for is left out, but for the first and the last");
  options.add("push-bucket-size", bytes(sync.push_bucket_bytes),
              "most bytes that are sent at once, and that small tensors are collected to");
}

void add_profile_options(OptionSet& options, TrainOptions& train) {
  ProfileOptions& profile = train.profile;
  options.group("Profile, for chrome://tracing or ui.perfetto.dev");
  options.add("profile", text(profile.file, "FILE"),
              "JSON file for a trace: what each rank does when, one track a rank");
  options.add("profile-steps", step_range(profile.first_step, profile.last_step), "steps to trace");
}

void check_saving_options(const SaveOptions& save) {
  const CheckpointOptions& how = save.checkpoint;
  const bool single = how.layout == CheckpointLayout::single;
  ARCHON_VALIDATE(!single || !how.async,
                  "--checkpoint-layout single does not go with --checkpoint-async on: all ranks "
                  "write the one file together, which cannot be done beside training; leave one "
                  "of the two out");
  ARCHON_VALIDATE(!single || how.compression == 0,
                  "--checkpoint-layout single does not go with --checkpoint-compression {}: where "
                  "ranks write one file together, sizes must be known before; leave one of the two "
                  "out",
                  how.compression);
  ARCHON_VALIDATE(!how.async || how.compression == 0,
                  "--checkpoint-async on does not go with --checkpoint-compression {}: the file is "
                  "laid out before it is written, so sizes must be known; leave one of the two out",
                  how.compression);
  ARCHON_VALIDATE(save.keep == 0 || save.planned(),
                  "--keep {} has no checkpoints to choose from; give --save-every STEPS or "
                  "--save-minutes M, or leave it out",
                  save.keep);
}

/// A folder of data may grow: the run lasts as long as there are files.
void check_length(const TrainOptions& train) {
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(train.run.data, ignored);
  ARCHON_VALIDATE(folder || train.steps > 0 || train.epochs > 0,
                  "missing --steps N or --epochs N: how long to train (a folder of data needs "
                  "neither, but --data {} is none)",
                  train.run.data);
  ARCHON_VALIDATE(folder || train.steps == 0 || train.epochs == 0,
                  "--steps {} and --epochs {} are both given; give one of them", train.steps,
                  train.epochs);
  ARCHON_VALIDATE(folder || train.data_wait == 0,
                  "--data-wait {} is for a folder that files are added to, and --data {} is none; "
                  "leave it out, or name the folder",
                  train.data_wait, train.run.data);
  const bool open_ended = folder && train.steps == 0;
  ARCHON_VALIDATE(!open_ended || train.schedule.shape == Shape::constant,
                  "--lr-schedule falls towards the last step, and nobody knows how many steps the "
                  "folder {} gives; say so with --steps N",
                  train.run.data);
  ARCHON_VALIDATE(!folder || train.eval_data.empty() || train.eval_every > 0,
                  "--eval-data is looked at after the last step, and nobody knows how many steps "
                  "the folder {} gives; say when with --eval-every N",
                  train.run.data);
}

/// Preferences are pairs of neighbours.
void check_pairs(const TrainOptions& train) {
  ARCHON_VALIDATE(train.loss.kind != LossKind::dpo || train.batch_sequences % 2 == 0,
                  "--loss dpo takes pairs: --batch-sequences {} must be even",
                  train.batch_sequences);
}

void check_weight_sync_options(const WeightSyncOptions& sync) {
  constexpr int64_t kLargestBucket = int64_t{1} << 30;
  ARCHON_VALIDATE(sync.push_role.empty() ||
                      (archon_is_role(sync.push_role.c_str()) && sync.push_role != kArchonRole),
                  "--push-weights {} is no role: it must be the consumer's own name, shorter than "
                  "{} bytes and not {}",
                  sync.push_role, ARCHON_ROLE_BYTES, kArchonRole);
  ARCHON_VALIDATE(sync.push_bucket_bytes <= kLargestBucket,
                  "--push-bucket-size {} is above 1GiB, the most that is sent at once",
                  sync.push_bucket_bytes);
}

/// An option that has no effect without another one.
struct Dependent {
  const char* option;
  bool given;  ///< it differs from its default
  bool used;
  const char* owner;
};

std::vector<Dependent> output_dependents(const TrainOptions& train, const TrainOptions& usual) {
  const WeightSyncOptions &sync = train.sync, &usual_sync = usual.sync;
  const RecordOptions &record = train.record, &usual_record = usual.record;
  const ProfileOptions &profile = train.profile, &usual_profile = usual.profile;
  const bool publishes = !sync.publish.empty(), pushes = !sync.push_role.empty(),
             records = !record.file.empty();
  const auto steps = [](const auto& each) { return std::pair(each.first_step, each.last_step); };
  const auto what = [](const RecordOptions& each) {
    return std::tuple(each.gradients, each.weights, each.activations);
  };
  constexpr const char *kPublish = "--publish DIR", *kPush = "--push-weights ROLE",
                       *kRecord = "--record FILE";
  return {
      {"publish-every", sync.publish_every != usual_sync.publish_every, publishes, kPublish},
      {"publish-keep", sync.publish_keep != usual_sync.publish_keep, publishes, kPublish},
      {"push-every", sync.push_every != usual_sync.push_every, pushes, kPush},
      {"push-wait", sync.push_wait != usual_sync.push_wait, pushes, kPush},
      {"push-bucket-size", sync.push_bucket_bytes != usual_sync.push_bucket_bytes, pushes, kPush},
      {"record-steps", steps(record) != steps(usual_record), records, kRecord},
      {"record-what", what(record) != what(usual_record), records, kRecord},
      {"profile-steps", steps(profile) != steps(usual_profile), !profile.file.empty(),
       "--profile FILE"},
      {"max-shard-size", train.max_shard_bytes != usual.max_shard_bytes,
       train.save_hf || publishes, "--save-hf on or --publish DIR"}};
}

std::vector<Dependent> update_dependents(const TrainOptions& train, const TrainOptions& usual) {
  const AdamWOptions &adamw = train.adamw, &usual_adamw = usual.adamw;
  const bool is_adamw = train.optimizer == OptimizerKind::adamw;
  constexpr const char* kAdamw = "--optimizer adamw";
  return {{"beta1", adamw.beta1 != usual_adamw.beta1, is_adamw, kAdamw},
          {"beta2", adamw.beta2 != usual_adamw.beta2, is_adamw, kAdamw},
          {"eps", adamw.eps != usual_adamw.eps, is_adamw, kAdamw},
          {"min-lr-ratio", train.schedule.min_ratio != usual.schedule.min_ratio,
           train.schedule.shape != Shape::constant, "--lr-schedule linear or cosine"}};
}

void check_dependents(const TrainOptions& train) {
  const TrainOptions usual;
  for (const auto& dependents : {output_dependents(train, usual), update_dependents(train, usual)})
    for (const Dependent& each : dependents)
      ARCHON_VALIDATE(!each.given || each.used,
                      "--{} belongs to {}, without which it has no effect; leave it out, or give "
                      "that, too",
                      each.option, each.owner);
}

}  // namespace

void add_optimizer_option(OptionSet& options, TrainOptions& train) {
  options.add("optimizer", choice(train.optimizer, kOptimizerWords),
              "update rule; weight decay is decoupled in both");
}

void add_memory_options(OptionSet& options, RunOptions& run) {
  MemoryOptions& memory = run.memory;
  add_shard_option(options, run);
  options.add("reshard-after-forward", on_off(memory.reshard_after_forward),
              "--shard full: release a block's parameters between forward and backward; off "
              "gathers them once per micro-batch and holds them");
  options.add("activation-checkpointing",
              activation_checkpointing(memory.activations.checkpointing),
              "recompute in backward: full = every block; every-K = every Kth block; selective = "
              "norms, rotary embedding and SwiGLU, but neither attention nor matrix products");
  options.add("mlp-tile-tokens", integer<int64_t>(memory.activations.mlp_tile_tokens, 0),
              "for long sequences: feed-forward on so many of a rank's tokens at a time, "
              "recomputed in backward; 0 = all at once");
  options.add("activation-offload", on_off(memory.activations.offload),
              "on GPUs: what recomputed blocks keep waits in host memory");
}

void add_train_options(OptionSet& options, TrainOptions& train) {
  options.group("Model and data");
  add_input_options(options, train.run,
                    "HDF5 token dataset, or a folder of them (*.h5), taken in the order of names");
  add_output_options(options, train);
  add_saving_options(options, train);
  add_length_options(options, train);
  add_batch_group(options, train);
  add_loss_options(options, train.loss);
  add_optimizer_options(options, train);
  add_memory_options(options, train.run);
  add_evaluation_options(options, train);
  add_weight_sync_options(options, train);
  add_record_options(options, train);
  add_profile_options(options, train);
  add_mesh_options(options, train.run);
  add_device_option(options, train.run);
}

void check_memory_options(const RunOptions& run) {
  ARCHON_VALIDATE(run.memory.reshard_after_forward || run.memory.shard == ShardMode::full,
                  "--reshard-after-forward off goes with --shard full only: otherwise parameters "
                  "are never released; leave it out, or give --shard full");
  const ActivationOptions& activations = run.memory.activations;
  ARCHON_VALIDATE(!activations.offload ||
                      activations.checkpointing.mode != ActivationCheckpointing::Mode::none,
                  "--activation-offload on moves what recomputed blocks keep, and none is "
                  "recomputed; give --activation-checkpointing full, every-K or selective too");
}

void check_train_options(const TrainOptions& train) {
  check_length(train);
  check_memory_options(train.run);
  check_saving_options(train.save);
  check_weight_sync_options(train.sync);
  check_dependents(train);
  ARCHON_VALIDATE(train.eval_every == 0 || !train.eval_data.empty(),
                  "--eval-every {} has nothing to evaluate; name a data set with --eval-data FILE",
                  train.eval_every);
  check_loss_options(train.loss);
  check_pairs(train);
}

}  // namespace archon::cli
