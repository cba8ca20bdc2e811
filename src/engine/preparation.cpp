#include "archon/engine/preparation.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/comm/agreement.hpp"
#include "archon/engine/model_outputs.hpp"
#include "archon/io/new_hdf5_file.hpp"
#include "rollout_advantages.hpp"

namespace archon {
namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool from_rewards(const std::string& field) { return field == "advantages" || field == "returns"; }

/// What a file has from rewards is used untouched, so nothing could be taken off them.
void check_divergence_in_rewards(const h5::File& file, const std::vector<std::string>& needed,
                                 const LossOptions& loss) {
  if (loss.advantages.kl_coefficient == 0) return;
  for (const std::string& field : needed)
    ARCHON_VALIDATE(
        !from_rewards(field) || !file.has("/" + field),
        "{} has /{} already, so nothing comes from its rewards, and --kl-in reward with "
        "--kl-coefficient {:g} would do nothing; take the dataset out of the file, or "
        "leave these options out",
        file.path(), field, loss.kl_coefficient);
}

/// A model that gives a field: named, with the same vocabulary, and of the right kind.
void check_other(const std::string& folder, const char* option, const std::string& field,
                 const DecoderConfig& trained) {
  ARCHON_VALIDATE(!folder.empty(),
                  "the data have no /{}, which the loss needs; name the model that gives them with "
                  "{} DIR, or add the dataset",
                  field, option);
  const DecoderConfig config = read_decoder_config(folder);
  ARCHON_VALIDATE(
      config.vocab_size == trained.vocab_size,
      "{} {} has a vocabulary of {} tokens, and --model one of {}; take a model with the "
      "same tokenizer",
      option, folder, config.vocab_size, trained.vocab_size);
  ARCHON_VALIDATE(config.critic == (field == "old_values"),
                  "{} {} {} a score head; give a model that {}", option, folder,
                  config.critic ? "has" : "has not",
                  config.critic ? "predicts tokens" : "is a critic (*ForTokenClassification)");
}

}  // namespace

Preparation::Preparation(const TrainOptions& options, const LoadedModel& trained,
                         const Objective& objective, const Mesh& mesh)
    : options_(options), trained_(trained), objective_(objective), mesh_(mesh) {}

std::vector<std::string> Preparation::lacking(const std::string& data) const {
  const h5::File file = h5::File::open(data);
  const LossOptions& loss = objective_.options;
  std::vector<std::string> needed = objective_.fields();
  check_divergence_in_rewards(file, needed, loss);
  const bool rewarded = std::any_of(needed.begin(), needed.end(), [&](const std::string& field) {
    return from_rewards(field) && !file.has("/" + field);
  });
  if (rewarded)
    for (const std::string& field : advantage_inputs(loss))
      if (!contains(needed, field)) needed.push_back(field);

  // What comes from rewards may need any of the others.
  std::stable_partition(needed.begin(), needed.end(),
                        [](const std::string& field) { return !from_rewards(field); });
  std::erase_if(needed, [&](const std::string& field) {
    const bool anew = field == "prox_logprobs" && loss.proximal == Proximal::recompute;
    return file.has("/" + field) && !anew;
  });
  return needed;
}

void Preparation::run(const std::string& data, const std::vector<std::string>& fields,
                      const std::string& prepared, int64_t step) {
  const bool rewarded = std::any_of(fields.begin(), fields.end(), from_rewards);
  std::optional<h5::NewFile> file;  // world rank 0 only, as the next
  std::optional<Rollouts> rollouts;
  check_on_rank_zero(mesh_.world(), [&] {
    check_others(fields);
    file.emplace(prepared, "archon.prepared_rollouts", 1);
    // What is wrong must not come up later, on one of the ranks that compute.
    const int64_t vocab = trained_.model->config().vocab_size;
    if (rewarded)
      rollouts = read_rollouts(data, vocab, objective_);
    else
      TokenDataset(data, vocab).check_all();
  });
  TokenOutputs outputs(file ? &file->file() : nullptr, mesh_);
  for (const std::string& field : fields)
    if (!from_rewards(field)) compute(data, field, outputs);
  check_on_rank_zero(mesh_.world(), [&] {
    if (rollouts) write_advantages(*std::move(rollouts), data, file->file(), objective_);
    file->file().set_attribute("/", "step", step);
    file->publish();
  });
  log::info("{}: computed {}", data, fmt::join(fields, ", "));
}

/// Before anything is computed, which takes a while.
void Preparation::check_others(const std::vector<std::string>& fields) const {
  const LossOptions& loss = objective_.options;
  const DecoderConfig& trained = trained_.model->config();
  if (contains(fields, "ref_logprobs"))
    check_other(loss.reference, "--reference", "ref_logprobs", trained);
  if (contains(fields, "old_values") && loss.kind != LossKind::critic)
    check_other(loss.critic_model, "--critic", "old_values", trained);
}

void Preparation::check(const std::string& data, const std::string& prepared, int64_t step) const {
  const h5::File file = h5::File::open(prepared);
  for (const std::string& field : lacking(data))
    ARCHON_VALIDATE(
        file.has("/" + field),
        "{} has no /{}: options of the loss have changed since step {}, from when it "
        "holds what was computed for {}; go on with the options of then, or begin afresh",
        prepared, field, step, data);
  const auto found = file.number_attribute("/", "step");
  ARCHON_VALIDATE(found == static_cast<double>(step),
                  "{} holds what was computed after step {}, but the checkpoint's is that of step "
                  "{}; bring the run's own file back",
                  prepared, found.value_or(-1), step);
}

void Preparation::compute(const std::string& data, const std::string& field,
                          TokenOutputs& outputs) {
  const Batcher batcher(options_.run, data, trained_.model->config(), mesh_,
                        {.unit = objective_.unit()});
  const LossOptions& loss = objective_.options;
  const std::string dataset = "/" + field;
  if (field == "prox_logprobs" && loss.proximal != Proximal::file)
    write_log_probs(trained_, mesh_, batcher, loss.temperature, outputs, dataset);
  else if (field == "ref_logprobs")
    write_log_probs(other(reference_, loss.reference), mesh_, batcher, loss.temperature, outputs,
                    dataset);
  else if (field == "old_values")
    write_old_values(
        loss.kind == LossKind::critic ? trained_ : other(critic_, loss.critic_model), mesh_,
        batcher, outputs, dataset);
  else
    throw_input_error(
        fmt::format("{} has no dataset /{}, one value per token, which --loss {} "
                    "needs; see docs/file-formats.md",
                    data, field, to_string(loss.kind)));
}

const LoadedModel& Preparation::other(std::optional<LoadedModel>& model,
                                      const std::string& folder) {
  if (!model) model.emplace(load_model(folder, mesh_, options_.run.dtype, options_.run.memory));
  return *model;
}

}  // namespace archon
