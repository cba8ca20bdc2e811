#include "tensor_source.hpp"

#include <fmt/ranges.h>

#include <filesystem>
#include <set>

#include "archon/base/error.hpp"
#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/io/files.hpp"
#include "archon/io/safetensors.hpp"
#include "manifest.hpp"
#include "owned_pieces.hpp"
#include "saved_boxes.hpp"

namespace archon {
namespace {

constexpr const char* kCheckpointSchema = "archon.checkpoint";

class Hdf5Source : public TensorSource {
 public:
  explicit Hdf5Source(h5::File file) : file_(std::move(file)) {}

  std::map<std::string, h5::DatasetInfo> list() const override {
    std::map<std::string, h5::DatasetInfo> all;
    for (h5::DatasetInfo& info : file_.datasets()) all.emplace(info.path, std::move(info));
    return all;
  }

  at::Tensor read(const h5::DatasetInfo& info, int64_t begin, int64_t count,
                  at::ScalarType dtype) const override {
    if (info.shape.empty()) return file_.read(info.path, dtype);
    return file_.read_rows(info.path, begin, count, dtype);
  }

 protected:
  h5::File file_;
};

/// The tensors of a checkpoint; without what only Archon reads (/trainer, /checksums).
class CheckpointSource : public Hdf5Source {
 public:
  CheckpointSource(h5::File index, bool as_weights)
      : Hdf5Source(std::move(index)), as_weights_(as_weights) {
    check_sources();
  }

  std::map<std::string, h5::DatasetInfo> list() const override {
    std::map<std::string, h5::DatasetInfo> chosen;
    for (auto& [path, info] : Hdf5Source::list()) {
      const bool is_parameter = path.starts_with(kParameterGroup);
      if (as_weights_ && is_parameter)
        chosen.emplace(path.substr(std::string_view(kParameterGroup).size()), info);
      else if (!as_weights_ && (is_parameter || path.starts_with(kOptimizerGroup)))
        chosen.emplace(path, info);
    }
    return chosen;
  }

 private:
  /// HDF5 reads NaN where a shard, or a dataset in it, is missing.
  void check_sources() const {
    std::map<std::string, std::set<std::string>> needed;  // datasets by file
    for (const auto& [path, info] : list())
      for (const SavedBox& saved : saved_boxes(file_, info))
        needed[saved.file].insert(saved.dataset);
    const std::string folder = parent_folder(file_.path());
    std::vector<std::string> missing;
    for (const auto& [name, datasets] : needed) {
      if (name == kIndexName) continue;
      const std::string path = folder + "/" + name;
      if (!std::filesystem::exists(path)) {
        missing.push_back(name);
        continue;
      }
      const h5::File shard = h5::File::open(path);
      for (const std::string& dataset : datasets)
        if (!shard.has(dataset)) missing.push_back(fmt::format("{} of {}", dataset, name));
    }
    ARCHON_VALIDATE(missing.empty(), "the checkpoint {} is not complete: it lacks {}", folder,
                    fmt::join(missing, ", "));
  }

  bool as_weights_;  ///< parameters only, under the names of a HuggingFace folder
};

class WeightSource : public TensorSource {
 public:
  explicit WeightSource(const std::string& folder) : weights_(folder) {}

  std::map<std::string, h5::DatasetInfo> list() const override {
    std::map<std::string, h5::DatasetInfo> all;
    for (const std::string& name : weights_.names()) {
      const SafetensorsEntry& entry = weights_.entry(name);
      all.emplace(name, h5::DatasetInfo{name, entry.shape, entry.dtype});
    }
    return all;
  }

  at::Tensor read(const h5::DatasetInfo& info, int64_t begin, int64_t count,
                  at::ScalarType dtype) const override {
    const at::Tensor whole = weights_.view(info.path);
    const at::Tensor rows = info.shape.empty() ? whole : whole.narrow(0, begin, count);
    return rows.to(dtype).contiguous();
  }

 private:
  WeightFolder weights_;
};

/// What a path names; `file` is the HDF5 file to open, unless it is a folder of weights.
struct Named {
  enum class Kind { file, checkpoint, weights } kind;
  std::string file;
};

Named identify(const std::string& path) {
  if (const auto checkpoint = find_checkpoint(path))
    return {Named::Kind::checkpoint, checkpoint->folder + "/" + kIndexName};
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return {Named::Kind::weights, path};
  const bool is_index = h5::File::open(path).string_attribute("/", "schema") == kCheckpointSchema;
  return {is_index ? Named::Kind::checkpoint : Named::Kind::file, path};
}

std::unique_ptr<TensorSource> open_source(const Named& named, bool as_weights) {
  if (named.kind == Named::Kind::weights) return std::make_unique<WeightSource>(named.file);
  h5::File file = h5::File::open(named.file);
  if (named.kind == Named::Kind::file) return std::make_unique<Hdf5Source>(std::move(file));
  return std::make_unique<CheckpointSource>(std::move(file), as_weights);
}

}  // namespace

TensorSources open_tensor_sources(const std::string& a, const std::string& b) {
  const Named in_a = identify(a), in_b = identify(b);
  const auto one_is = [&](Named::Kind kind) { return in_a.kind == kind || in_b.kind == kind; };
  const bool as_weights = one_is(Named::Kind::checkpoint) && one_is(Named::Kind::weights);
  return {open_source(in_a, as_weights), open_source(in_b, as_weights),
          as_weights ? "the checkpoint's optimizer state is left out: a HuggingFace folder has none"
                     : ""};
}

}  // namespace archon
