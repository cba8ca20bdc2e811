#pragma once

#include <vector>

#include "archon/mesh/mesh.hpp"

namespace archon::test {

/// Every mesh of `ranks` ranks.
inline std::vector<MeshShape> all_meshes(int ranks) {
  std::vector<MeshShape> shapes;
  for (int dp = 1; dp <= ranks; ++dp)
    for (int cp = 1; dp * cp <= ranks; ++cp)
      if (ranks % (dp * cp) == 0) shapes.push_back({dp, cp, ranks / (dp * cp)});
  return shapes;
}

}  // namespace archon::test
