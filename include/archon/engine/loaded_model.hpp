#pragma once

#include <memory>
#include <string>

#include "archon/engine/options.hpp"
#include "archon/mesh/mesh.hpp"
#include "archon/model/registry.hpp"

namespace archon {

/// A model with its weights on this rank's place in the mesh.
struct LoadedModel {
  HfCompanions hf;  ///< the config alone, but on world rank 0 of a run that saves
  const ModelSpec* spec = nullptr;
  std::unique_ptr<Model> model;
  std::string folder;  ///< what was read: the checkpoint's, or what the path given leads to
};

/// Where config.json, weights and tokenizer are: the folder of the checkpoint that `path` names
/// (see find_checkpoint), or `path` itself.
std::string model_folder(const std::string& path);
/// The same as rank 0 finds it, and without links: what it holds stays, whatever moves later, as
/// the link `latest` of published weights does. Collective.
std::string model_folder(const std::string& path, const Communicator& world);

/// What config.json of such a folder says. InputError.
DecoderConfig read_decoder_config(const std::string& path);

/// How the parameters of such a run are stored.
ShardPolicy shard_policy(at::ScalarType dtype, const MemoryOptions& memory,
                         at::Device device = at::kCPU);

/// Reads the config, builds the model, applies the architecture's hooks (tp, then cp), activation
/// checkpointing and sharding, and allocates this rank's shares, whose values are undefined. `path`
/// is a HuggingFace folder or a checkpoint. `mesh` must outlive the model.
LoadedModel allocate_model(const std::string& path, const Mesh& mesh, at::ScalarType dtype,
                           const MemoryOptions& memory = {});
/// The same, filled from the weights there.
LoadedModel load_model(const std::string& path, const Mesh& mesh, at::ScalarType dtype,
                       const MemoryOptions& memory = {});

/// Elements of all parameters, over all ranks.
int64_t count_parameters(const Model& model);

}  // namespace archon
