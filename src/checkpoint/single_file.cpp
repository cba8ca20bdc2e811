#include "single_file.hpp"

#include <map>
#include <optional>

#include "archon/comm/agreement.hpp"
#include "archon/io/files.hpp"
#include "archon/io/hdf5_collective.hpp"
#include "archon/io/json.hpp"
#include "archon/mesh/topology.hpp"
#include "shard_file.hpp"

namespace archon {
namespace {

/// Rank 0's.
h5::FileImage lay_out(const CheckpointIndex& index, int64_t step, const std::string& trainer) {
  h5::FileLayout layout("archon.checkpoint", 1);
  write_run_state(layout.file(), step, "single", trainer);
  std::vector<RoomFor> datasets;
  for (const auto& [path, tensor] : index) datasets.push_back({path, tensor.shape});
  reserve_with_sums(layout, datasets);
  return layout.finish();
}

/// A file that HDF5 can open, whose space is taken: a full disk shows here, on one rank, not inside
/// a collective call.
void write_frame(const std::string& path, const h5::FileImage& image,
                 const SaveControl& control) {
  RawFile file(path, RawFile::Mode::create, control);
  for (const h5::FileImage::Segment& segment : image.segments)
    if (segment.reserved < 0)
      file.write(segment.content.data(), segment.content.size());
    else
      file.skip(segment.bytes);
}

std::vector<std::string> all_paths(const CheckpointIndex& index, const Communicator& world) {
  Json paths = Json::array();
  for (const auto& [path, tensor] : index) paths.push_back(path);
  return Json::parse(world.broadcast(paths.dump(), 0)).get<std::vector<std::string>>();
}

/// Every rank takes part in every write, also after one failed: the others would wait for it.
std::string write_pieces(const std::string& path, const std::vector<std::string>& datasets,
                         const std::vector<OwnedPiece>& pieces, const Communicator& world) {
  std::map<std::string, const OwnedPiece*> mine;
  for (const OwnedPiece& piece : pieces) mine[piece.path] = &piece;
  std::optional<h5::CollectiveFile> file;
  std::string first = attempt([&] { file.emplace(path, world); });
  if (!file) return first;
  const auto note = [&](const std::string& failure) {
    if (first.empty()) first = failure;
  };
  for (const std::string& dataset : datasets) {
    const OwnedPiece* piece = mine.contains(dataset) ? mine.at(dataset) : nullptr;
    std::vector<h5::Slab> slabs;
    if (piece != nullptr)
      for (const Box& box : piece->boxes) slabs.push_back(slab_of(box, piece->shape));
    note(attempt([&] {
      file->write(dataset, slabs, piece ? piece->elements.const_data_ptr<float>() : nullptr);
    }));
  }
  note(attempt([&] { file->close(); }));
  return first;
}

ManifestFile write_sums(const std::string& path, const h5::FileImage& image, std::size_t datasets,
                        const SaveControl& control) {
  RawFile file(path, RawFile::Mode::update, control);
  std::vector<float> block(kChecksumBlock);
  const FileStructure structure =
      write_around(file, image, datasets, [&](std::size_t, int64_t bytes, const auto& visit) {
        for (int64_t left = bytes; left > 0;) {
          const std::size_t count = std::min<std::size_t>(left / sizeof(float), block.size());
          file.read(block.data(), count * sizeof(float));
          visit(std::span<const float>(block.data(), count));
          left -= static_cast<int64_t>(count * sizeof(float));
        }
      });
  ManifestFile written = file.finish();
  written.structure = structure;
  return written;
}

}  // namespace

std::string write_single_file(const std::string& path, const CheckpointIndex& index,
                              const std::vector<OwnedPiece>& pieces, int64_t step,
                              const std::string& trainer, const Communicator& world,
                              const SaveControl& control, ManifestFile& written) {
  const bool lowest = world.rank() == 0;
  const std::vector<int> hosts = host_of_ranks(world.mpi());
  h5::FileImage image;
  std::string failure;
  if (lowest)
    failure = attempt([&] {
      image = lay_out(index, step, trainer);
      write_frame(path, image, control);
    });
  if (!agree_on_failure(world, failure).empty()) return failure;
  // Before MPI-IO, inside which the others would wait for a rank that cannot open the file.
  failure = attempt([&] { RawFile(path, RawFile::Mode::update, control); });
  if (!agree_on_failure(world, failure).empty()) return failure;
  failure = write_pieces(path, all_paths(index, world), pieces, world);
  if (failure.empty()) failure = attempt([&] { control.check_write(path); });
  // What another host wrote may be seen only once it is on the disk; the rest goes there while it
  // is summed.
  if (failure.empty() && hosts[world.rank()] != 0) failure = attempt([&] { sync_path(path); });
  if (!agree_on_failure(world, failure).empty()) return failure;
  if (lowest)
    failure = attempt([&] { written = write_sums(path, image, index.size(), control); });
  return failure;
}

}  // namespace archon
