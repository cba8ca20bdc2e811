#include "archon/model/model.hpp"

namespace archon {

Recompute ActivationCheckpointing::of_layer(int64_t layer) const {
  switch (mode) {
    case Mode::none:
      return Recompute::none;
    case Mode::full:
      return Recompute::full;
    case Mode::every:
      return layer % every == 0 ? Recompute::full : Recompute::none;
    case Mode::selective:
      return Recompute::selective;
  }
  return Recompute::none;
}

std::vector<const Parameter*> Model::parameters() const {
  const auto all = const_cast<Model*>(this)->parameters();
  return {all.begin(), all.end()};
}

void Model::allocate(const ShardPolicy& policy, const Communicator& shard_group) {
  sharding_ = std::make_unique<Sharding>(policy, shard_group);
  for (ParameterUnit* unit : units()) unit->allocate(*sharding_);
}

}  // namespace archon
