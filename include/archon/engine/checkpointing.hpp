#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "archon/checkpoint/checkpoint_writer.hpp"
#include "archon/comm/watchdog.hpp"
#include "archon/engine/loaded_model.hpp"
#include "archon/engine/options.hpp"

namespace archon {

/// Decides when a run saves, and says how it went. A save that fails is a warning while the run goes
/// on, and the end of a run that ends with it.
///
/// The signals are answered at the end of the step they come in: SIGUSR1 asks for a checkpoint,
/// SIGTERM for one and the end. All calls but `wish`, `ended` and `ending` are collective over the
/// mesh.
class Checkpointing {
 public:
  /// All arguments must outlive it. `resumed_from`: a checkpoint's folder, or empty.
  Checkpointing(const TrainOptions& options, const LoadedModel& loaded, Optimizer& optimizer,
                const Mesh& mesh, const std::string& resumed_from);

  /// What this rank asks for: signals, and the time on world rank 0. The largest of all ranks' is
  /// given to `after_step`.
  int64_t wish();
  /// Saves after a step if that is due; `state` tells what goes beside the tensors.
  void after_step(int64_t step, int64_t wish, const std::function<Json()>& state);
  /// Answers wishes while no step can be taken; `step` is the last one done.
  void while_waiting(int64_t step, int64_t wish, const std::function<Json()>& state);
  /// Whether SIGTERM ends the run after this step.
  bool ended() const { return ended_; }
  /// Whether SIGTERM ended the run, or came to this rank and will at the end of a step.
  bool ending() const { return ended_ || (orderly_end_ && orderly_end_->asked()); }
  /// Saves after the last step where saves are planned, or `must_save` (the run cannot go on), and
  /// waits until that is done. From here on SIGTERM ends the process at once.
  void finish(const std::function<Json()>& state, bool must_save = false);
  /// RuntimeFailure when the last save failed.
  void ensure_saved() const;

 private:
  using Clock = std::chrono::steady_clock;
  void answer(int64_t step, int64_t wish, const std::function<Json()>& state);
  void save(int64_t step, const std::function<Json()>& state);
  void tell(const CheckpointResult& result);
  std::string good_one() const;

  const SaveOptions& options_;
  std::string folder_;
  const Mesh& mesh_;
  CheckpointWriter writer_;
  std::optional<OrderlyEnd> orderly_end_;
  bool ended_ = false;
  int64_t unsaved_ = 0;        // the last step done, where no save followed it
  Clock::time_point begin_;    // of the last save, or of the run
  std::string newest_;         // folder of the newest good checkpoint
  CheckpointResult last_;
};

}  // namespace archon
