#include "archon/optim/clip.hpp"

#include <algorithm>

namespace archon {

double clip_coefficient(double norm, double max_norm) {
  if (max_norm == 0.0) return 1.0;
  return std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace archon
