#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "archon/io/json_fwd.hpp"
#include "archon/mesh/mesh.hpp"
#include "archon/model/state_dict.hpp"
#include "archon/optim/optimizer.hpp"

namespace archon {

/// shards: a file per rank that owns something, and an index of virtual datasets. single: one
/// file, written by all ranks together through MPI-IO.
enum class CheckpointLayout { shards, single };

struct CheckpointOptions {
  CheckpointLayout layout = CheckpointLayout::shards;
  bool async = false;     ///< shards only: the disk is written while training goes on
  int64_t compression = 0;  ///< deflate level 1 to 9, 0 = off; shards only, and not async
};

/// How a save ended, the same on every rank.
struct CheckpointResult {
  int64_t step = 0;       ///< 0: there was none to end
  bool complete = false;  ///< published, and `latest` names it
  std::string folder;     ///< of the checkpoint
  std::string failure;    ///< of the lowest rank that failed, with the reason
  double seconds_paused = 0;  ///< for which training stood still on this rank
};

/// Saves the state of a run under `folder` (OUTPUT/checkpoints).
///
/// A checkpoint is written beside (.step-N.tmp), checksummed, synced, renamed into place, and then
/// named by `latest`; whatever goes wrong before leaves the earlier ones as they were, and nothing
/// half under a checkpoint's name. Every rank writes what it owns; copies that several ranks hold
/// are written once, shared out among them.
///
/// Every call is collective over the mesh. Failures of the disk on any rank are not thrown but
/// told in the result, since training can go on without the checkpoint.
class CheckpointWriter {
 public:
  /// All but `folder` must outlive it. `companions` go into each checkpoint, with their config.
  /// InputError for options that do not go together.
  CheckpointWriter(std::string folder, const CheckpointOptions& options, const Model& model,
                   Optimizer& optimizer, const StateDictAdapter& adapter,
                   const HfCompanions& companions, const Mesh& mesh);
  /// Ends a save under way without publishing it.
  ~CheckpointWriter();

  /// Saves what model and optimizer hold now. `trainer` is what the trainer wants back beside
  /// tensors. Synchronous: the result is of this save. Asynchronous: returns at once; what is saved
  /// is copied in memory meanwhile, for which the optimizer's next step waits, so change nothing
  /// before by other means. The result is of the save before, for which it waits (two are never
  /// under way).
  CheckpointResult save(int64_t step, const Json& trainer);
  /// Publishes the asynchronous save if every rank's part is on the disk. Free while none is under
  /// way. Call between steps.
  CheckpointResult poll();
  /// Waits for the save under way and publishes it.
  CheckpointResult finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace archon
