#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/checkpoint/recorder.hpp"
#include "archon/comm/agreement.hpp"
#include "archon/data/gather.hpp"
#include "archon/engine/batcher.hpp"
#include "archon/engine/loaded_model.hpp"
#include "archon/engine/model_outputs.hpp"
#include "archon/engine/objective.hpp"
#include "archon/engine/run.hpp"
#include "archon/io/files.hpp"
#include "archon/io/new_hdf5_file.hpp"
#include "archon/mesh/topology.hpp"
#include "archon/parallel/collectives.hpp"
#include "archon/parallel/partition.hpp"

namespace archon {
namespace {

/// Logits of the whole vocabulary for this cp slice: [T/cp, vocabulary].
at::Tensor gather_logits(const at::Tensor& local, const Model& model, const Mesh& mesh) {
  const int64_t vocab = model.config().vocab_size;
  at::Tensor columns = at::empty({vocab, local.size(0)}, local.options());
  mesh.tp().all_gather(columns, local.t().contiguous(), even_sizes(vocab, mesh.shape().tp));
  return columns.t().contiguous();
}

class ForwardRun {
 public:
  ForwardRun(const ForwardOptions& options, const Mesh& mesh)
      : options_(options),
        mesh_(mesh),
        loaded_(load_model(options.run.model, mesh, options.run.dtype, options.run.memory)),
        batcher_(options.run, options.run.data, loaded_.model->config(), mesh) {
    const bool critic = loaded_.model->config().critic;
    ARCHON_VALIDATE(!critic || !(options.logprobs || options.entropy || options.logits),
                    "this model is a critic: it has values, and no logprobs, entropy or logits; "
                    "ask for --what values (or hidden)");
    ARCHON_VALIDATE(critic || !options.values,
                    "this model has no score head, so no values; ask for logprobs, entropy, logits "
                    "or hidden");
    check_on_rank_zero(mesh_.world(), [&] {
      validate_no_input("--output", options.output, {options.run.data});
      file_.emplace(options.output, "archon.forward", 1);
    });
  }

  void run() {
    TokenOutputs outputs(file_ ? &file_->file() : nullptr, mesh_);
    create_datasets(outputs);
    const c10::NoGradGuard no_grad;
    batcher_.for_each([&](const PackedBatch& batch) { process(batch, outputs); });
    if (!file_) return;
    file_->file().write("/cu_seqlens", cu_seqlens());
    file_->publish();
  }

 private:
  at::Tensor cu_seqlens() const {
    const auto& offsets = batcher_.dataset().cu_seqlens();
    at::Tensor tensor = at::empty({static_cast<int64_t>(offsets.size())}, at::kLong);
    std::copy(offsets.begin(), offsets.end(), tensor.data_ptr<int64_t>());
    return tensor;
  }

  void create_datasets(TokenOutputs& outputs) {
    const DecoderConfig& config = loaded_.model->config();
    const int64_t tokens = batcher_.dataset().tokens();
    if (options_.logprobs) outputs.create("/logprobs", {}, tokens);
    if (options_.entropy) outputs.create("/entropy", {}, tokens);
    if (options_.values) outputs.create("/values", {}, tokens);
    if (options_.logits) outputs.create("/logits", {config.vocab_size}, tokens);
    if (options_.hidden)
      for (const std::string& name : activation_names(config.num_layers))
        outputs.create("/" + name, {config.hidden_size}, tokens);
  }

  void process(const PackedBatch& batch, TokenOutputs& outputs) {
    const TokenPlaces places = places_in_file(batch, batcher_.dataset());
    const PackedBatch slice = ulysses_slice_inputs(batch, mesh_.cp_rank(), mesh_.shape().cp);

    ActivationCollector collector(mesh_);
    const auto write = [&](const at::Tensor& share) {
      if (options_.values)
        outputs.write("/values", whole_stream(critic_values(*loaded_.model, share), mesh_), places);
      if (options_.logprobs || options_.entropy || options_.logits)
        write_distributions(share, slice, places, outputs);
      return share;
    };
    loaded_.model->forward(model_input(slice), write, options_.hidden ? &collector : nullptr);
    for (const auto& [name, stream] : collector.take()) outputs.write("/" + name, stream, places);
  }

  void write_distributions(const at::Tensor& share, const PackedBatch& slice,
                           const TokenPlaces& places, TokenOutputs& outputs) {
    const at::Tensor hidden = differentiable::all_gather(share, mesh_.tp());
    if (options_.logprobs || options_.entropy) {
      const LogProbs result = stream_log_probs(hidden, slice, *loaded_.model, mesh_,
                                               options_.temperature, options_.entropy);
      if (options_.logprobs) outputs.write("/logprobs", result.log_probs, places);
      if (options_.entropy) outputs.write("/entropy", result.entropy, places);
    }
    if (options_.logits) {
      const at::Tensor local =
          local_logits(hidden, vocab_parallel_head(*loaded_.model, mesh_, options_.temperature));
      outputs.write("/logits",
                    ulysses_gather_output(gather_logits(local, *loaded_.model, mesh_), mesh_.cp()),
                    places);
    }
  }

  const ForwardOptions& options_;
  const Mesh& mesh_;
  LoadedModel loaded_;
  Batcher batcher_;
  std::optional<h5::NewFile> file_;  // world rank 0 only
};

}  // namespace

void run_forward(const ForwardOptions& options, MpiEnvironment& mpi) {
  const Mesh mesh = start_mesh(options.run.mesh, options.run.device, mpi);
  ForwardRun(options, mesh).run();
  log::info("wrote {}", options.output);
}

}  // namespace archon
