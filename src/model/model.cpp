#include "archon/model/model.hpp"

namespace archon {

std::vector<const Parameter*> Model::parameters() const {
  const auto all = const_cast<Model*>(this)->parameters();
  return {all.begin(), all.end()};
}

void Model::allocate(at::ScalarType compute_dtype) {
  dtype_ = compute_dtype;
  for (Parameter* parameter : parameters()) parameter->allocate(compute_dtype);
}

}  // namespace archon
