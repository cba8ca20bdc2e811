#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

/// Checkpoints as folders: OUTPUT/checkpoints/step-00000100, with `latest` beside them. The files
/// inside are described in docs/file-formats.md. None of these calls communicates.
namespace archon {

/// A folder that holds a complete checkpoint as far as names and sizes tell.
struct CheckpointEntry {
  int64_t step = 0;
  std::string folder;
};

/// "step-00000100"
std::string checkpoint_name(int64_t step);

/// The complete checkpoints in `folder` (OUTPUT/checkpoints), newest first; empty where there is no
/// such folder. Complete: the manifest is whole, and every file it lists is there in its size. Why
/// others are not is logged as a warning. InputError when the folder cannot be read.
std::vector<CheckpointEntry> list_checkpoints(const std::string& folder);

/// What `path` names as a checkpoint: a step folder, an output folder or its checkpoints/ (the
/// newest complete one), or the file `latest`. Nothing when it is none of these (a HuggingFace
/// folder); InputError when it is one and holds no complete checkpoint.
std::optional<CheckpointEntry> find_checkpoint(const std::string& path);

/// Renames a written, synced folder into place as checkpoint_name(step), replacing one of that
/// step, then points `latest` at it. RuntimeFailure with the system's reason.
void publish_checkpoint(const std::string& written, const std::string& folder, int64_t step);

/// Removes what interrupted saves left behind. Never throws: what cannot be removed is logged.
void remove_interrupted_saves(const std::string& folder);

/// The same, and removes all complete checkpoints but the newest `keep` (0 = all stay) and the one
/// that `latest` names.
void prune_checkpoints(const std::string& folder, int64_t keep);

/// Whether a file of a checkpoint has the bytes that its manifest says.
bool is_file_whole(const std::string& folder, const std::string& name);

/// One thing that is wrong with a file of a checkpoint.
struct CheckpointDamage {
  std::string file;  ///< within the checkpoint's folder
  std::string what;  ///< with the dataset, where it is known
};

/// Reads every byte of a checkpoint and compares it with the sums stored beside it; empty when all
/// is well. `bytes` receives the number of bytes read, if not null.
std::vector<CheckpointDamage> verify_checkpoint(const std::string& folder,
                                                int64_t* bytes = nullptr);

}  // namespace archon
