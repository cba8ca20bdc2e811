#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "archon/io/json.hpp"
#include "archon/mesh/mesh.hpp"
#include "archon/model/state_dict.hpp"
#include "archon/optim/optimizer.hpp"

namespace archon {

/// Fills an allocated model's masters, and the optimizer's state and number of steps, from a
/// checkpoint that was saved on any mesh; `optimizer` may be null (only weights are read). Every
/// rank reads the blocks that hold what it owns and compares them with their checksums. Returns
/// what the trainer had saved beside.
///
/// Collective over the mesh. InputError, the same on every rank, that names file and dataset when
/// something is missing, damaged, or does not fit the model or optimizer; masters and state are
/// then undefined.
Json load_checkpoint(const std::string& folder, Model& model, Optimizer* optimizer,
                     const StateDictAdapter& adapter, const Mesh& mesh);

struct CheckpointSummary {
  int64_t step;
  std::string layout;  ///< "shards" or "single"
  int64_t shards;      ///< files
  int64_t tensors, parameters;
  int64_t bytes;                          ///< of all files
  std::set<std::string> optimizer_state;  ///< kept for each parameter: "exp_avg", ...
  Json trainer;                           ///< what the trainer had saved beside
};

/// What is in a checkpoint, without reading its tensors. InputError as load_checkpoint.
CheckpointSummary summarize_checkpoint(const std::string& folder);

/// Writes the weights of a checkpoint as a HuggingFace folder, as save_hf_folder does at the end of
/// a run: one tensor at a time in memory, each compared with its checksums. `model` is what the
/// checkpoint's config describes, and needs no memory.
void export_checkpoint(const std::string& folder, const Model& model,
                       const StateDictAdapter& adapter, const std::string& output,
                       at::ScalarType dtype, int64_t max_shard_bytes);

}  // namespace archon
