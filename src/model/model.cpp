#include "archon/model/model.hpp"

namespace archon {

std::vector<const Parameter*> Model::parameters() const {
  // The virtual one hands out what its caller may change; nothing is changed here.
  const std::vector<Parameter*> all = const_cast<Model*>(this)->parameters();
  return {all.begin(), all.end()};
}

void Model::allocate(at::ScalarType compute_dtype) {
  dtype_ = compute_dtype;
  for (Parameter* parameter : parameters()) parameter->allocate(compute_dtype);
}

}  // namespace archon
