#pragma once

#include <functional>
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

/// Writes what a HuggingFace folder holds besides weights: config.json from `hf`, with its "dtype"
/// or "torch_dtype" set to `dtype`, and those files of the tokenizer, the chat template and the
/// generation settings that `source_folder` has. Their names.
std::vector<std::string> write_hf_companions(const HfConfig& hf, const std::string& source_folder,
                                             const std::string& folder, at::ScalarType dtype);

/// Writes a HuggingFace folder: the masters as weights in `dtype`, in several files when they
/// exceed `max_shard_bytes`, and the companions of `source_folder`. Collective over the mesh;
/// world rank 0 writes.
void save_hf_folder(const Model& model, const StateDictAdapter& adapter, const Mesh& mesh,
                    const std::string& source_folder, const std::string& folder,
                    at::ScalarType dtype, std::int64_t max_shard_bytes,
                    const SafetensorsMetadata& metadata = {});

}  // namespace archon
