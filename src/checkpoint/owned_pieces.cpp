#include "owned_pieces.hpp"

#include <functional>

namespace archon {
namespace {

/// A part of a parameter as a rank holds it: a box of the whole tensor, of which it owns a range.
struct Place {
  std::vector<int64_t> shape;
  Box share;    // of the tp rank
  Range owned;  // elements of the share, in row-major order
};

Place place_of(const Parameter& parameter, std::size_t part) {
  Place place{parameter.parts()[part].shape, whole_box(parameter.parts()[part].shape), {}};
  const Range tp = parameter.tp_range(part);
  if (parameter.placement() == TpPlacement::columns) {
    const int64_t width = place.share.columns.size() / place.shape[1];
    place.share.columns = {tp.begin * width, tp.end * width};
  } else {
    place.share.rows = tp;
  }
  const Range elements = parameter.part_elements(part);
  const Range mine = intersect(elements, parameter.owned());
  place.owned = {mine.begin - elements.begin, mine.end - elements.begin};
  return place;
}

/// `tensor` holds the elements place.owned; `wanted` is a range of these.
void add_piece(std::vector<OwnedPiece>& pieces, const std::string& path, const Place& place,
               Range wanted, const at::Tensor& tensor) {
  if (wanted.size() == 0) return;
  pieces.push_back({path, place.shape, boxes_of_range(place.share, wanted),
                    tensor.view({-1}).narrow(0, wanted.begin - place.owned.begin, wanted.size())});
}

using ShareOut = std::function<Range(const Parameter&, Range owned)>;

std::vector<OwnedPiece> collect(const Model& model, Optimizer* optimizer,
                                const StateDictAdapter& adapter, const ShareOut& share_out) {
  std::vector<OwnedPiece> pieces, states;
  auto state = optimizer != nullptr ? optimizer->state()
                                    : std::map<std::string, std::map<std::string, at::Tensor>>{};
  for (const Parameter* parameter : model.parameters())
    for (std::size_t part = 0; part < parameter->parts().size(); ++part) {
      const std::string name = adapter.to_hf(parameter->parts()[part].name);
      const Place place = place_of(*parameter, part);
      const Range wanted = share_out(*parameter, place.owned);
      add_piece(pieces, kParameterGroup + name, place, wanted,
                parameter->owned_part(parameter->master(), part));
      for (const auto& [kind, tensor] : state[name])
        add_piece(states, kOptimizerGroup + kind + "/" + name, place, wanted, tensor);
    }
  pieces.insert(pieces.end(), states.begin(), states.end());
  return pieces;
}

/// Part `index` of `parts` of a range.
Range share_of(Range range, int parts, int index) {
  const Range share = even_range(range.size(), parts, index);
  return {range.begin + share.begin, range.begin + share.end};
}

}  // namespace

std::vector<OwnedPiece> owned_pieces(const Model& model, Optimizer* optimizer,
                                     const StateDictAdapter& adapter) {
  return collect(model, optimizer, adapter, [](const Parameter&, Range owned) { return owned; });
}

std::vector<OwnedPiece> pieces_to_save(const Model& model, Optimizer* optimizer,
                                       const StateDictAdapter& adapter, const Mesh& mesh) {
  const Communicator& group = mesh.shard_group();
  return collect(model, optimizer, adapter, [&](const Parameter& parameter, Range owned) {
    // place().size 1 in a larger group: every rank of it holds the same.
    if (parameter.place().size == 1) owned = share_of(owned, group.size(), group.rank());
    // Shares of the tp ranks could leave gaps: where these hold different numbers of rows, their
    // units are cut into other blocks.
    const bool anothers =
        parameter.placement() == TpPlacement::replicated && mesh.tp_rank() != 0;
    return anothers ? Range{owned.begin, owned.begin} : owned;
  });
}

}  // namespace archon
