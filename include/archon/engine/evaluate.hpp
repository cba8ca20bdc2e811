#pragma once

#include "archon/engine/batcher.hpp"
#include "archon/engine/loaded_model.hpp"
#include "archon/engine/objective.hpp"

namespace archon {

struct EvalResult {
  double loss = 0;  ///< the objective's mean; 0 when there is nothing to average
  int64_t sequences = 0;
  int64_t tokens = 0;
  int64_t targets = 0;
};

/// The objective over a whole dataset. Collective over the mesh.
EvalResult evaluate(const LoadedModel& loaded, const Mesh& mesh, const Batcher& batcher,
                    const Objective& objective);

/// InputError when the data set that `option` names has none: there is no loss of it.
void validate_has_targets(const char* option, const std::string& data, int64_t targets);

}  // namespace archon
