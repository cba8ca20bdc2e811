#include "archon/checkpoint/checkpoint_writer.hpp"

#include <ATen/ops/full.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <future>
#include <span>
#include <utility>

#include "archon/base/activity.hpp"
#include "archon/base/blocked_signals.hpp"
#include "archon/base/error.hpp"
#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/comm/agreement.hpp"
#include "archon/comm/watchdog.hpp"
#include "archon/io/json.hpp"
#include "index_file.hpp"
#include "manifest.hpp"
#include "owned_pieces.hpp"
#include "raw_file.hpp"
#include "shard_file.hpp"
#include "single_file.hpp"

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
  for (const ManifestFile& file : files) list.push_back(to_json(file));
  return list;
}

void add_files(Manifest& manifest, const Json& list) {
  for (const Json& file : list) manifest.files.push_back(parse_manifest_file(file));
}

void make_empty_folder(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (!error) fs::create_directories(path, error);
  ARCHON_ENSURE(!error, "cannot make the folder {}: {}", path, error.message());
}

CheckpointOptions validated(const CheckpointOptions& options) {
  const bool single = options.layout == CheckpointLayout::single;
  ARCHON_VALIDATE(!single || !options.async,
                  "checkpoints in a single file cannot be saved asynchronously: all ranks write it "
                  "together through MPI, which only the training thread may use; choose the layout "
                  "shards, or synchronous saves");
  ARCHON_VALIDATE(options.compression >= 0 && options.compression <= 9,
                  "checkpoint compression {} is no deflate level; choose 1 to 9, or 0 for none",
                  options.compression);
  ARCHON_VALIDATE(options.compression == 0 || !single,
                  "checkpoints in a single file cannot be compressed: where an element lies must be "
                  "known before it is written; choose the layout shards, or no compression");
  ARCHON_VALIDATE(options.compression == 0 || !options.async,
                  "compressed checkpoints cannot be saved asynchronously: HDF5, which compresses "
                  "them, is not safe for a second thread; choose one of the two");
  return options;
}

int64_t count_elements(const std::vector<OwnedPiece>& pieces) {
  int64_t elements = 0;
  for (const OwnedPiece& piece : pieces) elements += piece.elements.numel();
  return elements;
}

bool in_host_memory(const std::vector<OwnedPiece>& pieces) {
  return std::ranges::all_of(pieces, [](const OwnedPiece& p) { return p.elements.is_cpu(); });
}

/// The same pieces with memory of their own in one host tensor, which is touched now, so that the
/// first save does not wait for its pages.
std::vector<OwnedPiece> host_twins(const std::vector<OwnedPiece>& pieces) {
  const bool pinned = !pieces.empty() && pieces.front().elements.is_cuda();
  const at::Tensor memory =
      at::full({count_elements(pieces)}, 0.0, at::TensorOptions(at::kFloat).pinned_memory(pinned));
  std::vector<OwnedPiece> twins = pieces;
  int64_t begin = 0;
  for (OwnedPiece& twin : twins) {
    const int64_t count = twin.elements.numel();
    twin.elements = memory.narrow(0, begin, count);
    begin += count;
  }
  return twins;
}

/// From pieces to their host twins, with this thread alone: the others compute meanwhile.
void copy_elements(const std::vector<OwnedPiece>& pieces, const std::vector<OwnedPiece>& twins) {
  const TraceSpan span("checkpoint copy");
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const at::Tensor &from = pieces[i].elements, &to = twins[i].elements;
    if (from.is_cpu())
      std::copy_n(from.const_data_ptr<float>(), from.numel(), to.mutable_data_ptr<float>());
    else
      to.copy_(from);
  }
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

struct CheckpointWriter::State {
  State(std::string folder, const CheckpointOptions& options, const Model& model,
        Optimizer& optimizer, const StateDictAdapter& adapter, const HfCompanions& companions,
        const Mesh& mesh);
  /// One that goes with a save under way belongs to a run that has failed.
  ~State() {
    optimizer.before_next_step(nullptr);
    control.abandon();
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  bool under_way() const { return part.valid(); }
  void begin(int64_t step, const Json& trainer);
  CheckpointResult publish();

  void start_shards(const std::string& trainer);
  Part write_shards(const std::string& index_bytes) const;
  Part write_single(const std::string& trainer) const;
  ManifestFile write_own_shard() const;
  void remove_own_files() const;
  void add_run_files(Part& part, const ManifestFile& index_file) const;
  void publish_parts(const std::vector<std::string>& parts) const;
  std::string in_temporary(const std::string& name) const { return temporary + "/" + name; }

  const std::string folder;
  const CheckpointOptions options;
  Optimizer& optimizer;
  const Communicator& world;
  const HfCompanions& companions;
  const at::ScalarType stored_dtype;  // of the model, for the companions' config
  const std::vector<OwnedPiece> pieces;
  const bool copies;  // what is written is a copy: for asynchronous saves, and from a GPU
  const std::vector<OwnedPiece> written;  // the pieces, or their twins in host memory
  const CheckpointIndex index;            // on world rank 0
  const h5::FileImage shard;
  SaveControl control;

  // The save under way.
  int64_t step = 0;
  std::string temporary;  // folder
  double seconds_paused = 0;
  std::future<Part> part;
};

CheckpointWriter::State::State(std::string folder, const CheckpointOptions& options,
                               const Model& model, Optimizer& optimizer,
                               const StateDictAdapter& adapter, const HfCompanions& companions,
                               const Mesh& mesh)
    : folder(std::move(folder)),
      options(validated(options)),
      optimizer(optimizer),
      world(mesh.world()),
      companions(companions),
      stored_dtype(model.config().stored_dtype),
      pieces(pieces_to_save(model, &optimizer, adapter, mesh)),
      copies(options.async || !in_host_memory(pieces)),
      written(copies ? host_twins(pieces) : pieces),
      index(gather_index(pieces, world)),
      shard(lay_out_shard(pieces)),
      control(world.rank()) {}

void CheckpointWriter::State::begin(int64_t step_to_save, const Json& trainer) {
  const auto begin = std::chrono::steady_clock::now();
  step = step_to_save;
  temporary = fmt::format("{}/.{}.tmp", folder, checkpoint_name(step));
  control.begin_save();
  Part outcome;
  if (world.rank() == 0) outcome.failure = attempt([&] { make_empty_folder(temporary); });
  const bool ready = agree_on_failure(world, outcome.failure).empty();
  const Json state = {{"optimizer_steps", optimizer.steps()}, {"trainer", trainer}};
  if (ready && copies && !options.async) copy_elements(pieces, written);
  if (ready && options.layout == CheckpointLayout::shards) {
    start_shards(state.dump());
  } else {
    if (ready) outcome = write_single(state.dump());
    part = std::async(std::launch::deferred, [outcome] { return outcome; });
  }
  seconds_paused = seconds_since(begin);
}

void CheckpointWriter::State::start_shards(const std::string& trainer) {
  Part begun;
  std::string index_bytes;
  if (world.rank() == 0)
    begun.failure = attempt([&] { index_bytes = make_index(index, step, trainer); });
  const auto write = [this, begun, bytes = std::move(index_bytes)] {
    return begun.failure.empty() ? write_shards(bytes) : begun;
  };
  if (!options.async) {
    part = std::async(std::launch::deferred, write);
    return;
  }
  std::promise<void> copied;
  optimizer.before_next_step([this, ready = copied.get_future().share()] {
    const ActivityScope activity(Activity::io, "checkpoint copy");
    const auto begin = std::chrono::steady_clock::now();
    ready.wait();
    seconds_paused += seconds_since(begin);
  });
  const BlockedSignals blocked;  // handlers belong to the training, not to the thread started here
  part = std::async(std::launch::async, [this, write, copied = std::move(copied)]() mutable {
    // Goes with this block whatever happens, or the next step would wait for ever.
    std::promise<void> done = std::move(copied);
    copy_elements(pieces, written);
    done.set_value();
    return write();
  });
}

Part CheckpointWriter::State::write_shards(const std::string& index_bytes) const {
  const TraceSpan span("checkpoint files");
  Part part;
  part.failure = attempt([&] {
    if (!written.empty()) part.files.push_back(write_own_shard());
    if (world.rank() != 0) return;
    RawFile file(in_temporary(kIndexName), RawFile::Mode::create, control);
    file.write(index_bytes.data(), index_bytes.size());
    add_run_files(part, file.finish());
  });
  if (!part.failure.empty()) remove_own_files();
  return part;
}

/// At once: on a full disk they would refuse what the training writes before publish().
void CheckpointWriter::State::remove_own_files() const {
  std::error_code ignored;
  fs::remove_all(world.rank() == 0 ? temporary : in_temporary(shard_name(world.rank())), ignored);
}

ManifestFile CheckpointWriter::State::write_own_shard() const {
  const std::string path = in_temporary(shard_name(world.rank()));
  if (options.compression > 0)
    return write_compressed_shard(path, written, options.compression, control);
  std::vector<std::span<const float>> elements;
  for (const OwnedPiece& piece : written)
    elements.emplace_back(piece.elements.const_data_ptr<float>(),
                          static_cast<std::size_t>(piece.elements.numel()));
  return write_shard(path, shard, elements, control);
}

Part CheckpointWriter::State::write_single(const std::string& trainer) const {
  Part part;
  ManifestFile file;
  part.failure = write_single_file(in_temporary(kIndexName), index, written, step, trainer, world,
                                   control, file);
  if (part.failure.empty() && world.rank() == 0)
    part.failure = attempt([&] { add_run_files(part, file); });
  return part;
}

/// Rank 0's: the index, and what makes the folder one that --model takes.
void CheckpointWriter::State::add_run_files(Part& part, const ManifestFile& index_file) const {
  part.files.push_back(index_file);
  for (const std::string& name : write_hf_companions(companions, temporary, stored_dtype))
    part.files.push_back(entry_of(in_temporary(name)));
}

CheckpointResult CheckpointWriter::State::publish() {
  const Part own = part.get();
  CheckpointResult result{step, false, folder + "/" + checkpoint_name(step), {}, seconds_paused};
  result.failure = agree_on_failure(world, own.failure);
  if (result.failure.empty()) {
    const auto parts = gather_bytes(world, to_json(own.files).dump());
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
  control.check("rename", temporary);
  publish_checkpoint(temporary, folder, step);
}

CheckpointWriter::CheckpointWriter(std::string folder, const CheckpointOptions& options,
                                   const Model& model, Optimizer& optimizer,
                                   const StateDictAdapter& adapter,
                                   const HfCompanions& companions, const Mesh& mesh)
    : state_(std::make_unique<State>(std::move(folder), options, model, optimizer, adapter,
                                     companions, mesh)) {}

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
