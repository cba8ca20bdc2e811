#pragma once

#include "archon/engine/batcher.hpp"
#include "archon/engine/loaded_model.hpp"
#include "archon/engine/objective.hpp"

namespace archon {

struct EvalResult {
  double loss = 0;  ///< mean over all targets; 0 when there are none
  int64_t sequences = 0;
  int64_t tokens = 0;
  int64_t targets = 0;
};

/// The objective's mean over all targets of a dataset. Collective over the mesh.
EvalResult evaluate(const LoadedModel& loaded, const Mesh& mesh, const Batcher& batcher,
                    const Objective& objective);

}  // namespace archon
