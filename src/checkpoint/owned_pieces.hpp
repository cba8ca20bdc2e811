#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "archon/mesh/mesh.hpp"
#include "archon/model/state_dict.hpp"
#include "archon/optim/optimizer.hpp"
#include "box.hpp"

namespace archon {

/// What this rank holds of one tensor of the run.
struct OwnedPiece {
  std::string path;            ///< "/parameters/model.norm.weight", "/optimizer/exp_avg/..."
  std::vector<int64_t> shape;  ///< of the whole tensor
  std::vector<Box> boxes;      ///< where the piece lies in it; at most three, one behind the other
                               ///< in `elements`
  at::Tensor elements;         ///< float32 [number of elements]: the run's own memory
};

inline const char* const kParameterGroup = "/parameters/";
inline const char* const kOptimizerGroup = "/optimizer/";

/// Everything this rank holds: masters and, unless `optimizer` is null, its state; in the order of
/// the HuggingFace file, masters first. Paths that a rank holds nothing of are left out.
std::vector<OwnedPiece> owned_pieces(const Model& model, Optimizer* optimizer,
                                     const StateDictAdapter& adapter);

/// The part of owned_pieces that this rank saves: of what several ranks of the mesh hold alike
/// (parameters that tp replicates; everything without sharding), each rank a share of its own.
std::vector<OwnedPiece> pieces_to_save(const Model& model, Optimizer* optimizer,
                                       const StateDictAdapter& adapter, const Mesh& mesh);

}  // namespace archon
