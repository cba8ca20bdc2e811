#include "archon/engine/resume.hpp"

#include <algorithm>
#include <filesystem>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/checkpoint/checkpoint_reader.hpp"
#include "archon/comm/agreement.hpp"
#include "archon/engine/trainer_state.hpp"
#include "archon/io/files.hpp"

namespace archon {
namespace fs = std::filesystem;
namespace {

using Entries = std::vector<CheckpointEntry>;

bool has_step_folder(const std::string& folder) {
  return std::ranges::any_of(list_folder(folder),
                             [](const std::string& name) { return name.starts_with("step-"); });
}

/// The checkpoints of a run, newest first. A run of which nothing whole is left does not silently
/// begin afresh.
Entries checkpoints_in(const std::string& folder) {
  const Entries complete = list_checkpoints(folder);
  ARCHON_VALIDATE(!complete.empty() || !has_step_folder(folder),
                  "no checkpoint in {} is complete; remove the folder to begin afresh, or give "
                  "--resume DIR",
                  folder);
  return complete;
}

Entries named_checkpoints(const std::string& path) {
  std::error_code ignored;
  for (const std::string& folder : {path + "/checkpoints", path})
    if (fs::is_directory(folder, ignored))
      if (const Entries found = checkpoints_in(folder); !found.empty()) return found;
  const auto found = find_checkpoint(path);
  ARCHON_VALIDATE(found,
                  "--resume {} is no checkpoint; give auto, none, or a folder of a checkpoint or of "
                  "a run with checkpoints",
                  path);
  return {*found};
}

/// A run goes on in its own folder, from its newest checkpoint, or in a new folder.
void check_place(const TrainOptions& options, const CheckpointEntry& first, const Entries& own,
                 bool used) {
  std::error_code ignored;
  const bool inside =
      fs::equivalent(parent_folder(first.folder), options.output + "/checkpoints", ignored);
  ARCHON_VALIDATE(inside || !used,
                  "--output {} holds a run already, and --resume {} is a checkpoint of another one; "
                  "choose another folder, or give --resume auto to go on with the run there",
                  options.output, options.resume);
  ARCHON_VALIDATE(!inside || own.empty() || own.front().step <= first.step,
                  "--resume {} goes back to step {}, but {} is newer and would be taken for this "
                  "run's; remove the newer ones, or choose another --output",
                  options.resume, first.step, own.front().folder);
}

/// What makes a model that one and no other, named as in config.json where that says it.
Json definition(const DecoderConfig& config) {
  return {{"model_type", config.model_type},
          {"hidden_size", config.hidden_size},
          {"intermediate_size", config.intermediate_size},
          {"num_hidden_layers", config.num_layers},
          {"num_attention_heads", config.num_heads},
          {"num_key_value_heads", config.num_kv_heads},
          {"head_dim", config.head_dim},
          {"vocab_size", config.vocab_size},
          {"rms_norm_eps", config.rms_norm_eps},
          {"rope_theta", config.rope_theta},
          {"qkv_bias", config.qkv_bias},
          {"qk_norm", config.qk_norm},
          {"tie_word_embeddings", config.tied_embeddings},
          {"critic", config.critic}};
}

/// Weights come from the checkpoint, and everything else from --model: they must belong together.
void check_same_model(const std::string& checkpoint, const std::string& model) {
  const Json there = definition(read_decoder_config(checkpoint)),
             here = definition(read_decoder_config(model));
  for (const auto& [name, value] : there.items())
    ARCHON_VALIDATE(here.at(name) == value,
                    "{} is a checkpoint of another model ({} is {} there and {} in --model {}), "
                    "and the run would go on from it; give the --model of before, or begin afresh "
                    "in another --output",
                    checkpoint, name, value.dump(), here.at(name).dump(), model);
}

/// Whether the newest checkpoint here is of a run that began with this --resume: the same command goes
/// on, as a job does that was put back into the queue.
bool goes_on(const Entries& own, const std::string& resume) {
  if (own.empty()) return false;
  try {
    return began_from(summarize_checkpoint(own.front().folder).trainer, resume);
  } catch (const InputError&) {
    return false;
  }
}

Entries find_candidates(const TrainOptions& options) {
  std::error_code ignored;
  ARCHON_VALIDATE(!fs::exists(options.output + "/config.json", ignored),
                  "--output {} is the folder of a model, which would hide the run's checkpoints; "
                  "choose another folder",
                  options.output);
  ARCHON_VALIDATE(!fs::is_directory(options.output, ignored) ||
                      !fs::equivalent(options.output, options.run.data, ignored),
                  "--output {} is the folder --data, and the run would train on what it writes "
                  "there; choose another folder",
                  options.output);
  const Entries own = checkpoints_in(options.output + "/checkpoints");
  const bool used = fs::exists(options.output + "/metrics.jsonl") || !own.empty();
  ARCHON_VALIDATE(options.resume != "none" || !used,
                  "--output {} holds a run already and --resume is none; choose another folder, "
                  "or remove this one",
                  options.output);
  if (options.resume == "auto" || options.resume == "none") {
    if (used && own.empty())
      log::warning("{} holds a run without a checkpoint; it is replaced", options.output);
    return own;
  }
  if (goes_on(own, options.resume)) return own;
  const Entries named = named_checkpoints(options.resume);
  check_place(options, named.front(), own, used);
  return named;
}

/// The same model in every candidate: the first whose config.json is whole tells which.
void check_model(const Entries& candidates, const std::string& model) {
  const auto whole = std::ranges::find_if(candidates, [](const CheckpointEntry& entry) {
    return is_file_whole(entry.folder, "config.json");
  });
  if (whole != candidates.end()) check_same_model(whole->folder, model);
}

/// Folders of a run before, which the last step would find closed.
void check_folders(const TrainOptions& options) {
  std::error_code ignored;
  const auto check = [&](bool needed, const std::string& folder) {
    if (needed && fs::exists(fs::symlink_status(folder, ignored))) ensure_writable_folder(folder);
  };
  check(options.save_hf, options.output + "/hf");
  check(options.save.planned(), options.output + "/checkpoints");
}

}  // namespace

RunFolder prepare_output(const TrainOptions& options, const Mesh& mesh) {
  RunFolder folder;
  Json found = Json::array();
  check_on_rank_zero(mesh.world(), [&] {
    // Before checkpoints are looked for: whoever has the folder adds and removes some.
    std::error_code ignored;
    const bool locked = fs::exists(options.output + "/.lock", ignored);
    if (locked) folder.lock = FolderLock(options.output);
    const Entries candidates = find_candidates(options);
    check_model(candidates, options.run.model);
    for (const CheckpointEntry& entry : candidates)
      found.push_back({{"step", entry.step}, {"folder", entry.folder}});
    ensure_writable_folder(options.output);
    if (!locked) folder.lock = FolderLock(options.output);
    check_folders(options);
    remove_interrupted_saves(options.output + "/checkpoints");  // first: they may fill the disk
  });
  // Other hosts may see a shared file system a little later: rank 0 decides for all.
  for (const Json& entry : Json::parse(mesh.world().broadcast(found.dump(), 0)))
    folder.checkpoints.push_back(
        {entry.at("step").get<int64_t>(), entry.at("folder").get<std::string>()});
  return folder;
}

LoadedCheckpoint load_newest(const Entries& candidates, const LoadedModel& loaded,
                             Optimizer& optimizer, const Mesh& mesh) {
  for (const CheckpointEntry& entry : candidates) try {
      Json trainer =
          load_checkpoint(entry.folder, *loaded.model, &optimizer, loaded.spec->adapter, mesh);
      return {entry.folder, std::move(trainer)};
    } catch (const InputError& error) {
      if (&entry == &candidates.back()) throw;
      log::warning("{}; the checkpoint before it is taken", error.what());
    }
  throw_runtime_failure("no checkpoint to load");
}

}  // namespace archon
