#pragma once

#include <optional>
#include <string>
#include <vector>

#include "archon/data/sampler.hpp"
#include "archon/engine/batcher.hpp"
#include "archon/engine/data_feed.hpp"
#include "archon/engine/objective.hpp"
#include "archon/engine/preparation.hpp"

namespace archon {

/// How far a run has come in its data.
struct DataPosition {
  std::vector<std::string> consumed;  ///< names of files that are used up
  std::string file;                   ///< the one in use; "" = none yet
  int64_t began = 0;                  ///< steps done before its first
};

/// What a run trains on: the steps of one file after another. A file is made ready (Preparation)
/// when its turn comes; a file of a folder then lasts for --epochs passes and is never taken again.
class TrainingData {
 public:
  /// All arguments must outlive it. Collective over the mesh.
  TrainingData(const TrainOptions& options, const LoadedModel& loaded, const Objective& objective,
               const Mesh& mesh, const DataFeed& feed);

  bool is_folder() const { return feed_.is_folder(); }
  /// Takes up the file of a checkpoint's position. `run`: folder of the run that saved it.
  void resume(const DataPosition& position, const std::string& run);
  /// Whether a file is there that was not used up. Collective.
  bool has_more() const { return feed_.next(position_.consumed).has_value(); }
  /// Whether there is a batch for the step after `step`, the next file opened if need be; false
  /// where no other file has come yet.
  bool ready_after(int64_t step);
  /// Call after each step: a file whose last step this was is used up.
  void done(int64_t step);

  /// Of the file in use, or used last. Only once one was ready.
  const Batcher& batcher() const { return *batcher_; }
  std::vector<int64_t> batch(int64_t step) const {
    return sampler_->batch(step - position_.began);
  }
  const Sampler& sampler() const { return *sampler_; }
  /// Of the one file; 0 for a folder.
  int64_t sequences() const { return is_folder() ? 0 : batcher_->dataset().size(); }
  bool open() const { return batcher_.has_value(); }
  const DataPosition& position() const { return position_; }

 private:
  // These two open the file on every rank, where some may not see it: errors are those of all.
  std::vector<std::string> lacking(const std::string& data) const;
  void use(const std::string& name, const std::string& beside);
  void check_temperature() const;
  std::string prepared(const std::string& output, const std::string& name) const;

  const TrainOptions& options_;
  const LoadedModel& loaded_;
  const Objective& objective_;
  const Mesh& mesh_;
  DataFeed feed_;
  Preparation preparation_;
  DataPosition position_;
  std::optional<Batcher> batcher_;
  std::optional<Sampler> sampler_;
};

}  // namespace archon
