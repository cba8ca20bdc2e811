#include "archon/checkpoint/checkpoint_writer.hpp"

#include <filesystem>
#include <future>
#include <optional>
#include <utility>

#include "agreement.hpp"
#include "archon/base/activity.hpp"
#include "archon/base/error.hpp"
#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/comm/watchdog.hpp"
#include "index_file.hpp"
#include "manifest.hpp"
#include "owned_pieces.hpp"
#include "raw_file.hpp"
#include "shard_file.hpp"

namespace archon {
namespace fs = std::filesystem;

namespace {

/// The files that one rank wrote, or why it could not.
struct Part {
  std::vector<ManifestFile> files;
  std::string failure;
};

Json to_json(const std::vector<ManifestFile>& files) {
  Json list = Json::array();
  for (const ManifestFile& file : files) list.push_back({file.name, file.bytes, file.xxh3_64});
  return list;
}

void add_files(Manifest& manifest, const Json& list) {
  for (const Json& file : list) manifest.files.push_back({file.at(0), file.at(1), file.at(2)});
}

void make_empty_folder(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (!error) fs::create_directories(path, error);
  ARCHON_ENSURE(!error, "cannot make the folder {}: {}", path, error.message());
}

}  // namespace

struct CheckpointWriter::State {
  State(std::string folder, const CheckpointOptions& options, const Model& model,
        Optimizer& optimizer, const StateDictAdapter& adapter, std::string model_folder,
        const Mesh& mesh);

  bool under_way() const { return part.valid(); }
  void begin(int64_t step, const Json& trainer);
  CheckpointResult publish();

  Part write_part(const std::string& index) const;
  ManifestFile write_index(const std::string& bytes) const;
  void publish_parts(const std::vector<std::string>& parts) const;

  const std::string folder, model_folder;
  const CheckpointOptions options;
  const Optimizer& optimizer;
  const Communicator& world;
  const HfConfig hf;
  const std::vector<OwnedPiece> pieces;
  const CheckpointIndex index;  // on world rank 0
  const h5::FileImage shard;
  RequestedFailure requested;

  // The save under way.
  int64_t step = 0;
  std::string temporary;  // folder
  std::future<Part> part;
};

CheckpointWriter::State::State(std::string folder, const CheckpointOptions& options,
                               const Model& model, Optimizer& optimizer,
                               const StateDictAdapter& adapter, std::string model_folder,
                               const Mesh& mesh)
    : folder(std::move(folder)),
      model_folder(std::move(model_folder)),
      options(options),
      optimizer(optimizer),
      world(mesh.world()),
      hf(HfConfig::read(this->model_folder)),
      pieces(pieces_to_save(model, &optimizer, adapter, mesh)),
      index(gather_index(pieces, world)),
      shard(lay_out_shard(pieces)),
      requested(world.rank()) {}

void CheckpointWriter::State::begin(int64_t step_to_save, const Json& trainer) {
  step = step_to_save;
  temporary = fmt::format("{}/.{}.tmp", folder, checkpoint_name(step));
  requested.begin_save();
  Part failed;
  if (world.rank() == 0) failed.failure = attempt([&] { make_empty_folder(temporary); });
  if (!agree_on_failure(world, failed.failure).empty()) {
    part = std::async(std::launch::deferred, [failed] { return failed; });
    return;
  }
  std::string index_bytes;
  if (world.rank() == 0) {
    const Json state = {{"optimizer_steps", optimizer.steps()}, {"trainer", trainer}};
    index_bytes = make_index(index, step, state.dump());
  }
  part = std::async(std::launch::deferred,
                    [this, bytes = std::move(index_bytes)] { return write_part(bytes); });
}

ManifestFile CheckpointWriter::State::write_index(const std::string& bytes) const {
  RawFile file(temporary + "/" + kIndexName, requested);
  file.write(bytes.data(), bytes.size());
  return file.finish();
}

Part CheckpointWriter::State::write_part(const std::string& index_bytes) const {
  Part written;
  written.failure = attempt([&] {
    std::vector<std::span<const float>> elements;
    for (const OwnedPiece& piece : pieces)
      elements.emplace_back(piece.elements.const_data_ptr<float>(), piece.elements.numel());
    if (!pieces.empty())
      written.files.push_back(write_shard(temporary + "/" + shard_name(world.rank()), shard,
                                          elements, requested));
    if (world.rank() != 0) return;
    written.files.push_back(write_index(index_bytes));
    for (const std::string& name : write_hf_companions(hf, model_folder, temporary, at::kFloat)) {
      ManifestFile file{name};
      file.xxh3_64 = xxh3_64_of_file(temporary + "/" + name, &file.bytes);
      written.files.push_back(file);
    }
  });
  return written;
}

CheckpointResult CheckpointWriter::State::publish() {
  const Part written = part.get();
  CheckpointResult result{step, false, folder + "/" + checkpoint_name(step), {}};
  result.failure = agree_on_failure(world, written.failure);
  if (result.failure.empty()) {
    const auto parts = gather_bytes(world, to_json(written.files).dump());
    std::string failure;
    if (world.rank() == 0) failure = attempt([&] { publish_parts(parts); });
    result.failure = agree_on_failure(world, failure);
  }
  result.complete = result.failure.empty();
  std::error_code ignored;
  if (!result.complete && world.rank() == 0) fs::remove_all(temporary, ignored);
  return result;
}

void CheckpointWriter::State::publish_parts(const std::vector<std::string>& parts) const {
  Manifest manifest{step, {}};
  for (const std::string& text : parts) add_files(manifest, Json::parse(text));
  write_manifest(temporary, manifest);
  requested.check("rename", temporary);
  publish_checkpoint(temporary, folder, step);
}

CheckpointWriter::CheckpointWriter(std::string folder, const CheckpointOptions& options,
                                   const Model& model, Optimizer& optimizer,
                                   const StateDictAdapter& adapter, std::string model_folder,
                                   const Mesh& mesh)
    : state_(std::make_unique<State>(std::move(folder), options, model, optimizer, adapter,
                                     std::move(model_folder), mesh)) {}

CheckpointWriter::~CheckpointWriter() = default;

CheckpointResult CheckpointWriter::save(int64_t step, const Json& trainer) {
  const CheckpointResult before = finish();
  {
    const ActivityScope activity(Activity::io, "checkpoint");
    const StageScope stage("checkpoint");
    state_->begin(step, trainer);
  }
  return state_->options.async ? before : finish();
}

CheckpointResult CheckpointWriter::poll() {
  if (!state_->under_way()) return {};
  const ActivityScope activity(Activity::io, "checkpoint");
  const bool mine = state_->part.wait_for(std::chrono::seconds(0)) != std::future_status::timeout;
  const bool all = state_->world.all_reduce(int64_t{mine}, ReduceOp::min) != 0;
  return all ? finish() : CheckpointResult{};
}

CheckpointResult CheckpointWriter::finish() {
  if (!state_->under_way()) return {};
  const ActivityScope activity(Activity::io, "checkpoint");
  const StageScope stage("checkpoint publication");
  return state_->publish();
}

}  // namespace archon
