#pragma once

#include <string>
#include <vector>

#include "archon/base/log.hpp"
#include "archon/engine/options.hpp"
#include "option_set.hpp"

namespace archon::cli {

/// How the program itself runs, whatever the command computes.
struct SessionOptions {
  std::vector<std::string> plugins;  ///< files
  bool deterministic = false;
  log::Level log_level = log::Level::info;
  double collective_timeout = 600;  ///< seconds; 0 = none
  int threads = 0;                  ///< per rank; 0 = from the cores
};

/// --dp --cp --tp --dtype --seed
void add_mesh_options(OptionSet& options, RunOptions& run);
/// --device, after the mesh's options
void add_device_option(OptionSet& options, RunOptions& run);
/// --shard: what every command with a model offers.
void add_shard_option(OptionSet& options, RunOptions& run);
/// --model --data, both required
void add_input_options(OptionSet& options, RunOptions& run,
                       const char* data = "HDF5 token dataset");
/// --micro-batch-tokens --max-sequence --pad-limit
void add_batch_options(OptionSet& options, RunOptions& run);
/// --plugin
void add_plugin_option(OptionSet& options, std::vector<std::string>& plugins);
/// A group with everything of SessionOptions, and --config.
void add_session_options(OptionSet& options, SessionOptions& session);
/// --threads --collective-timeout --log-level --config: what commands without a model need.
void add_process_options(OptionSet& options, SessionOptions& session);

/// --shard and the rest of what decides about memory in training.
void add_memory_options(OptionSet& options, RunOptions& run);
/// InputError when these do not go together.
void check_memory_options(const RunOptions& run);
/// --optimizer
void add_optimizer_option(OptionSet& options, TrainOptions& train);
/// --loss, and what losses and advantages are made of.
void add_loss_options(OptionSet& options, LossOptions& loss);
/// InputError for options that do not go together, or that this loss has no use for.
void check_loss_options(const LossOptions& loss);
/// Everything of `train`, but for the session.
void add_train_options(OptionSet& options, TrainOptions& train);
/// InputError when options of `train` do not go together.
void check_train_options(const TrainOptions& train);

}  // namespace archon::cli
