#include "archon/checkpoint/recorder.hpp"

#include <fmt/format.h>

#include "archon/base/activity.hpp"
#include "archon/comm/agreement.hpp"

namespace archon {

void ActivationCollector::keep(const std::string& name, const at::Tensor& share) {
  streams_[name] = whole_stream(share.detach().to(at::kFloat), mesh_).cpu();
}

void ActivationCollector::on_hidden(int64_t index, const at::Tensor& hidden) {
  keep(fmt::format("hidden/{}", index), hidden);
}

void ActivationCollector::on_final_norm(const at::Tensor& hidden) { keep("final_norm", hidden); }

std::vector<std::string> activation_names(int64_t layers) {
  std::vector<std::string> names;
  for (int64_t i = 0; i <= layers; ++i) names.push_back(fmt::format("hidden/{}", i));
  names.push_back("final_norm");
  return names;
}

GoldenRecorder::GoldenRecorder(const std::string& file, const Model& model,
                               const StateDictAdapter& adapter, const Mesh& mesh)
    : model_(model), adapter_(adapter), mesh_(mesh) {
  check_on_rank_zero(mesh.world(), [&] { file_.emplace(file, "archon.golden", 1); });
}

std::string GoldenRecorder::path(const std::string& name) const {
  return fmt::format("/steps/{:06}/{}", step_, name);
}

void GoldenRecorder::begin_step(int64_t step) { step_ = step; }

void GoldenRecorder::begin_activations(int64_t tokens) {
  const ActivityScope writing(Activity::io, "record");
  TokenOutputs outputs(file(), mesh_);
  for (const std::string& name : activation_names(model_.config().num_layers))
    outputs.create(path("activations/" + name), {model_.config().hidden_size}, tokens);
}

void GoldenRecorder::activations(const std::map<std::string, at::Tensor>& streams,
                                 const TokenPlaces& places) {
  const ActivityScope writing(Activity::io, "record");
  TokenOutputs outputs(file(), mesh_);
  for (const auto& [name, stream] : streams)
    outputs.write(path("activations/" + name), stream, places);
}

void GoldenRecorder::loss(double value) {
  if (file_) file_->file().write_scalar(path("loss"), value);
}

void GoldenRecorder::grad_norm(double norm) {
  if (file_) file_->file().write_scalar(path("grad_norm"), norm);
}

void GoldenRecorder::gradients() {
  write_tensors("gradients", [](const Parameter& p) { return p.grad().to(at::kFloat); });
}

void GoldenRecorder::weights() {
  write_tensors("weights", [](const Parameter& p) { return p.master(); });
}

void GoldenRecorder::finish() {
  if (file_) file_->publish();
}

void GoldenRecorder::write_tensors(
    const std::string& group, const std::function<at::Tensor(const Parameter&)>& select) {
  const ActivityScope writing(Activity::io, "record");
  for_each_whole_tensor(model_, adapter_, mesh_, select,
                        [&](const std::string& name, const at::Tensor& whole) {
                          if (file_) file_->file().write(path(group + "/" + name), whole);
                        });
}

}  // namespace archon
