#include "archon/engine/weight_sync.hpp"

#include <utility>

#include "weight_publisher.hpp"
#include "weight_push.hpp"

namespace archon {

WeightSync::WeightSync(const TrainOptions& options, const LoadedModel& loaded, const Mesh& mesh,
                       const MpiEnvironment& mpi, std::function<bool()> ending)
    : options_(options.sync) {
  if (!options_.publish.empty())
    publisher_ = std::make_unique<WeightPublisher>(options, loaded, mesh);
  if (!options_.push_role.empty())
    push_ = std::make_unique<WeightPush>(options_, loaded, mesh, mpi.peer_leader(),
                                         std::move(ending));
}

WeightSync::~WeightSync() = default;

void WeightSync::offer(int64_t step) {
  const bool first = latest_ < 0;
  latest_ = step;
  if (publisher_ && (first || step % options_.publish_every == 0)) publish();
  if (push_ && (first || step % options_.push_every == 0)) push(first || options_.push_wait);
}

bool WeightSync::finish() {
  if (publisher_ && published_ < latest_) publish();
  if (!push_) return true;
  if (pushed_ < latest_) push(/*wait=*/true);
  return push_->finish(latest_);
}

void WeightSync::publish() {
  publisher_->publish(latest_);
  published_ = latest_;
}

void WeightSync::push(bool wait) {
  if (push_->push(latest_, wait)) pushed_ = latest_;
}

}  // namespace archon
