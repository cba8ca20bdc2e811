#pragma once

#include <map>
#include <optional>
#include <string>

#include "archon/checkpoint/token_outputs.hpp"
#include "archon/io/new_hdf5_file.hpp"
#include "archon/model/registry.hpp"

namespace archon {

/// Keeps a forward pass's activations, made whole over cp and tp: what `forward --what hidden`
/// and the golden recorder write. Collective over the model-parallel group.
class ActivationCollector : public ActivationObserver {
 public:
  explicit ActivationCollector(const Mesh& mesh) : mesh_(mesh) {}

  void on_hidden(int64_t index, const at::Tensor& hidden) override;
  void on_final_norm(const at::Tensor& hidden) override;
  /// Dataset name ("hidden/0", "final_norm") to stream [T, hidden_size] on every rank of the
  /// replica; emptied by the call.
  std::map<std::string, at::Tensor> take() { return std::exchange(streams_, {}); }

 private:
  void keep(const std::string& name, const at::Tensor& share);
  const Mesh& mesh_;
  std::map<std::string, at::Tensor> streams_;
};

/// Names of the datasets an ActivationCollector gives for a model of `layers` layers.
std::vector<std::string> activation_names(int64_t layers);

/// Writes golden records (docs/file-formats.md): losses, norms, gradients, weights, activations
/// of chosen steps under HuggingFace names, the same datasets on any mesh.
///
/// All ranks of the mesh call alike; world rank 0 writes.
class GoldenRecorder {
 public:
  /// The file appears under its name with finish(). InputError when it cannot be made.
  GoldenRecorder(const std::string& file, const Model& model, const StateDictAdapter& adapter,
                 const Mesh& mesh);

  void begin_step(int64_t step);
  /// Makes room for activations of `tokens` tokens; call before the step's first micro-batch.
  void begin_activations(int64_t tokens);
  void activations(const std::map<std::string, at::Tensor>& streams, const TokenPlaces& places);
  void loss(double value);
  void gradients();
  void grad_norm(double norm);
  void weights();
  /// Call after the last step.
  void finish();

 private:
  std::string path(const std::string& name) const;
  h5::File* file() { return file_ ? &file_->file() : nullptr; }
  void write_tensors(const std::string& group,
                     const std::function<at::Tensor(const Parameter&)>& select);
  const Model& model_;
  const StateDictAdapter& adapter_;
  const Mesh& mesh_;
  std::optional<h5::NewFile> file_;  // world rank 0 only
  int64_t step_ = 0;
};

}  // namespace archon
