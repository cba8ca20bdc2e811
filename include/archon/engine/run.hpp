#pragma once

#include <ATen/core/ScalarType.h>

#include <csignal>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>

#include "archon/comm/mpi.hpp"
#include "archon/engine/options.hpp"

namespace archon {

/// The commands of the engine. train, eval, forward and generate are collective over mpi.world(), with
/// the same options on every rank. All throw InputError or RuntimeFailure.

/// What a shell or a launcher sees of a program that SIGTERM ended.
inline constexpr int kExitTerminated = 128 + SIGTERM;

/// Trains as asked, and leaves metrics, checkpoints, record and model under `options.output`. False
/// when SIGTERM ended the run before its last step, with a checkpoint.
bool run_train(const TrainOptions& options, MpiEnvironment& mpi);

/// Writes the loss over a data set as one JSON object to `json_out`, on world rank 0 only.
void run_eval(const RunOptions& options, MpiEnvironment& mpi, std::ostream& json_out);

/// Writes what the model computes for every token of a data set to an HDF5 file.
void run_forward(const ForwardOptions& options, MpiEnvironment& mpi);

/// Samples from a model, and writes the rollouts of a file of prompts to an HDF5 file; what came of
/// it as one JSON object to `json_out`, on world rank 0 only.
void run_generate(const GenerateOptions& options, MpiEnvironment& mpi, std::ostream& json_out);

/// Writes a new model with random weights as a HuggingFace folder. Runs in this process alone
/// and needs no MPI. `config_file` is a HuggingFace config.json.
void run_init(const std::string& config_file, std::uint64_t seed, const std::string& output,
              at::ScalarType dtype, std::int64_t max_shard_bytes);

/// Writes the weights of the checkpoint that `path` names as a HuggingFace folder; without `dtype`
/// in the type that its config names. Runs in this process alone and needs no MPI.
void run_export(const std::string& path, const std::string& output,
                std::optional<at::ScalarType> dtype, std::int64_t max_shard_bytes);

}  // namespace archon
