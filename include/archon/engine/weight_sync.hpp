#pragma once

#include <functional>
#include <memory>

#include "archon/comm/mpi.hpp"
#include "archon/engine/loaded_model.hpp"
#include "archon/engine/options.hpp"

namespace archon {

class WeightPublisher;
class WeightPush;

/// Hands a run's weights to others while it trains: to a folder (--publish) and to a program beside
/// it (--push-weights). A version is the number of steps that its weights have seen. All calls are
/// collective over the mesh.
class WeightSync {
 public:
  /// Connects to the consumer, if one is asked for. `ending`: whether the run is to end, asked
  /// while world rank 0 waits for the consumer. All arguments must outlive it.
  WeightSync(const TrainOptions& options, const LoadedModel& loaded, const Mesh& mesh,
             const MpiEnvironment& mpi, std::function<bool()> ending);
  ~WeightSync();
  WeightSync(const WeightSync&) = delete;
  WeightSync& operator=(const WeightSync&) = delete;

  /// Hands on the weights as they are after `step` where that is due: at the first call, and then
  /// every so many steps.
  void offer(int64_t step);
  /// Hands on the last weights offered, if they were not; tells the consumer that no more will
  /// come, and waits until it asks. Where the run is to end it waits for seconds at most; false on
  /// world rank 0 when the consumer could not be told.
  bool finish();

 private:
  void publish();
  void push(bool wait);

  const WeightSyncOptions& options_;
  int64_t latest_ = -1, published_ = -1, pushed_ = -1;  // steps
  std::unique_ptr<WeightPublisher> publisher_;
  std::unique_ptr<WeightPush> push_;
};

}  // namespace archon
