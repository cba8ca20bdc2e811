#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "archon/io/safetensors.hpp"
#include "archon/mesh/mesh.hpp"
#include "archon/model/model.hpp"

namespace archon {

/// Maps HuggingFace tensor names to internal ones and back, tensor by tensor.
///
/// Rules are pairs (HF pattern, internal pattern); "{}" in both stands for a layer number. An
/// HF name is matched after "._orig_mod" and "_orig_mod." (left by torch.compile) were removed.
class StateDictAdapter {
 public:
  using Rule = std::pair<std::string, std::string>;
  explicit StateDictAdapter(std::vector<Rule> rules) : rules_(std::move(rules)) {}

  std::optional<std::string> to_internal(const std::string& hf_name) const;
  /// RuntimeFailure when no rule covers it: adapters are complete.
  std::string to_hf(const std::string& internal_name) const;

 private:
  std::vector<Rule> rules_;
};

/// The names of Llama-like decoders (Llama, Mistral, Qwen2, Qwen3): "model.layers.{}..." and so on.
StateDictAdapter decoder_state_dict_adapter();

/// Fills every parameter of an allocated model from a weight folder; each rank touches only what
/// it owns, one tensor at a time. Collective over the shard group. InputError that lists missing, unexpected and misshapen tensors by name. A tied head
/// in the file is accepted when it equals the embedding.
void load_weights(Model& model, const StateDictAdapter& adapter, const WeightFolder& weights);

/// Gathers one part of `owned`, which is the parameter's master or grad, or another flat tensor of
/// the elements this rank owns: whole on every rank, in the tensor's own type. Collective over the
/// mesh.
at::Tensor gather_part(const Parameter& parameter, std::size_t part, const at::Tensor& owned,
                       const Mesh& mesh);

/// Calls `visit(HF name, whole tensor)` for every part of every parameter, in HF file order;
/// `select` chooses master or grad. Collective over the mesh.
void for_each_whole_tensor(const Model& model, const StateDictAdapter& adapter, const Mesh& mesh,
                           const std::function<at::Tensor(const Parameter&)>& select,
                           const std::function<void(const std::string&, const at::Tensor&)>& visit);

/// Every tensor of a model's HF file, in its order, in `dtype`. The model needs no memory.
std::vector<SafetensorsSpec> tensors_of(const Model& model, const StateDictAdapter& adapter,
                                        at::ScalarType dtype);

/// What a HuggingFace folder holds besides weights, in memory: saves do not need the folder that a
/// model came from.
struct HfCompanions {
  HfConfig config;
  /// Bytes by name: of the tokenizer, the chat template and the generation settings.
  std::map<std::string, std::string> files;
};

/// The config and those files beside it that are there; InputError for one that cannot be read.
HfCompanions read_hf_companions(const std::string& folder_or_config_file);

/// Writes them to `folder`, with the config's "dtype" or "torch_dtype" set to `dtype`. Their names.
std::vector<std::string> write_hf_companions(const HfCompanions& companions,
                                             const std::string& folder, at::ScalarType dtype);

/// Writes a HuggingFace folder: the masters as weights in `dtype`, in several files when they
/// exceed `max_shard_bytes`, and `companions`. Collective over the mesh; world rank 0 writes, and
/// needs the companions alone.
void save_hf_folder(const Model& model, const StateDictAdapter& adapter, const Mesh& mesh,
                    const HfCompanions& companions, const std::string& folder,
                    at::ScalarType dtype, std::int64_t max_shard_bytes,
                    const SafetensorsMetadata& metadata = {});

}  // namespace archon
