#include "archon/engine/weight_sync.hpp"

#include "weight_publisher.hpp"
#include "weight_push.hpp"

namespace archon {

WeightSync::WeightSync(const TrainOptions& options, const LoadedModel& loaded, const Mesh& mesh,
                       const MpiEnvironment& mpi, Progress& progress)
    : options_(options.sync), last_step_(options.steps) {
  if (!options_.publish.empty())
    publisher_ = std::make_unique<WeightPublisher>(options, loaded, mesh, progress);
  if (!options_.push_role.empty())
    push_ = std::make_unique<WeightPush>(options_, loaded, mesh, mpi.peer_leader(), progress);
}

WeightSync::~WeightSync() = default;

void WeightSync::offer(int64_t step) {
  const bool in_any_case = !started_ || step == last_step_;
  started_ = true;
  if (publisher_ && (in_any_case || step % options_.publish_every == 0)) publisher_->publish(step);
  if (push_ && (in_any_case || step % options_.push_every == 0))
    push_->push(step, in_any_case || options_.push_wait);
}

void WeightSync::finish() {
  if (push_) push_->finish();
}

}  // namespace archon
