#pragma once

#include <set>

#include "archon/engine/loaded_model.hpp"
#include "archon/engine/options.hpp"
#include "archon/io/folder_lock.hpp"

namespace archon {

/// Publishes weights as HuggingFace folders DIR/version-00000010 with DIR/latest, a symbolic link,
/// beside them. A name that can be seen is complete. Versions that are models of the run itself
/// (--model, --reference, --critic) are neither removed nor replaced.
class WeightPublisher {
 public:
  /// InputError when nothing can be written to the folder, or another run publishes there.
  /// Collective over the mesh; all arguments must outlive it.
  WeightPublisher(const TrainOptions& options, const LoadedModel& loaded, const Mesh& mesh);
  /// Collective over the mesh.
  void publish(int64_t version);

 private:
  void keep_models(const TrainOptions& options);
  void show(const std::string& written, int64_t version) const;
  void prune(int64_t newest) const;
  std::string path(const std::string& name) const { return folder_ + "/" + name; }

  std::string folder_;
  FolderLock lock_;  // world rank 0 only
  int64_t keep_;
  std::set<int64_t> models_;  // versions of the run itself; world rank 0 only
  int64_t max_shard_bytes_;
  const LoadedModel& loaded_;
  const Mesh& mesh_;
};

}  // namespace archon
