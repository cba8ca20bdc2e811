#include "index_file.hpp"

#include "archon/base/checksum.hpp"
#include "archon/base/error.hpp"
#include "archon/comm/agreement.hpp"
#include "archon/io/json.hpp"
#include "shard_file.hpp"

namespace archon {
namespace {

/// [[path, shape, [[row begin, row end, column begin, column end], ...]], ...]
Json describe(const std::vector<OwnedPiece>& pieces) {
  Json list = Json::array();
  for (const OwnedPiece& piece : pieces) {
    Json boxes = Json::array();
    for (const Box& box : piece.boxes)
      boxes.push_back({box.rows.begin, box.rows.end, box.columns.begin, box.columns.end});
    list.push_back({piece.path, piece.shape, std::move(boxes)});
  }
  return list;
}

void add_rank(CheckpointIndex& index, int rank, const Json& list) {
  for (const Json& piece : list) {
    IndexedTensor& tensor = index[piece.at(0).get<std::string>()];
    tensor.shape = piece.at(1).get<std::vector<int64_t>>();
    IndexedTensor::Source source{rank, {}};
    for (const Json& box : piece.at(2))
      source.boxes.push_back({{box[0], box[1]}, {box[2], box[3]}});
    tensor.sources.push_back(std::move(source));
  }
}

std::vector<h5::VirtualSource> virtual_sources(const IndexedTensor& tensor) {
  std::vector<h5::VirtualSource> mappings;
  for (const IndexedTensor::Source& source : tensor.sources) {
    int64_t elements = 0;
    for (const Box& box : source.boxes) elements += box.elements();
    int64_t begin = 0;
    for (const Box& box : source.boxes) {
      mappings.push_back({shard_name(source.rank), elements, begin, slab_of(box, tensor.shape)});
      begin += box.elements();
    }
  }
  return mappings;
}

}  // namespace

CheckpointIndex gather_index(const std::vector<OwnedPiece>& pieces, const Communicator& world) {
  CheckpointIndex index;
  int rank = 0;
  for (const std::string& text : gather_bytes(world, describe(pieces).dump()))
    add_rank(index, rank++, Json::parse(text));
  return index;
}

h5::Slab slab_of(const Box& box, const std::vector<int64_t>& shape) {
  ARCHON_ENSURE(!shape.empty() && shape.size() <= 2,
                "a tensor of {} dims cannot be saved; models have vectors and matrices",
                shape.size());
  h5::Slab slab{{box.rows.begin}, {box.rows.size()}};
  if (shape.size() == 2) {
    slab.begin.push_back(box.columns.begin);
    slab.count.push_back(box.columns.size());
  }
  return slab;
}

void write_run_state(h5::File& file, int64_t step, const char* layout, const std::string& trainer) {
  file.set_attribute("/", "step", step);
  file.set_attribute("/", "layout", std::string(layout));
  file.write_string("/trainer/state", trainer);
  file.set_attribute("/trainer/state", "xxh3_64", xxh3_64(trainer.data(), trainer.size()));
}

std::string make_index(const CheckpointIndex& index, int64_t step, const std::string& trainer) {
  h5::FileLayout layout("archon.checkpoint", 1);
  write_run_state(layout.file(), step, "shards", trainer);
  for (const auto& [path, tensor] : index)
    h5::create_virtual(layout.file(), path, tensor.shape, virtual_sources(tensor));
  return std::move(layout.finish().segments.at(0).content);
}

}  // namespace archon
