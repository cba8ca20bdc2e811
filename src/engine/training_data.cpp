#include "archon/engine/training_data.hpp"

#include <algorithm>
#include <filesystem>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/comm/agreement.hpp"
#include "archon/io/files.hpp"

namespace archon {
namespace fs = std::filesystem;

TrainingData::TrainingData(const TrainOptions& options, const LoadedModel& loaded,
                           const Objective& objective, const Mesh& mesh, const DataFeed& feed)
    : options_(options),
      loaded_(loaded),
      objective_(objective),
      mesh_(mesh),
      feed_(feed),
      preparation_(options, loaded, objective, mesh) {}

/// Where what was computed for a file lies.
std::string TrainingData::prepared(const std::string& output, const std::string& name) const {
  return output + "/prepared/" + name;
}

/// Rollouts say at which temperature they were sampled; what compares policies at another one
/// would be wrong.
void TrainingData::check_temperature() const {
  const TokenDataset& dataset = batcher_->dataset();
  const LossOptions& loss = objective_.options;
  const auto written = dataset.file().number_attribute("/", "temperature");
  const bool compares = loss.is_policy_gradient() || loss.advantages.kl_coefficient > 0;
  if (!compares || !written) return;
  // Greedy rollouts come with the log-probabilities of temperature 1.
  const double sampled = *written == 0 ? 1 : *written;
  if (sampled != loss.temperature)
    log::warning(
        "{} was sampled at temperature {}, and --temperature is {}: ratios and divergences compare "
        "policies of different temperatures; give --temperature {}",
        dataset.path(), sampled, loss.temperature, sampled);
}

std::vector<std::string> TrainingData::lacking(const std::string& data) const {
  std::vector<std::string> fields;
  check_on_every_rank(mesh_.world(), [&] { fields = preparation_.lacking(data); });
  return fields;
}

void TrainingData::use(const std::string& name, const std::string& beside) {
  check_on_every_rank(mesh_.world(), [&] {
    batcher_.emplace(options_.run, feed_.path(name), loaded_.model->config(), mesh_,
                     DataNeeds{objective_.fields(), beside, objective_.unit()});
  });
  sampler_.emplace(batcher_->dataset().size(), options_.batch_sequences, options_.shuffle,
                   options_.run.seed + position_.consumed.size(), objective_.unit());
  position_.file = name;
}

void TrainingData::resume(const DataPosition& position, const std::string& run) {
  position_ = position;
  // The one file may have moved since.
  if (!is_folder()) position_.file = *feed_.next({});
  if (position_.file.empty()) return;
  std::string beside;
  if (!lacking(feed_.path(position_.file)).empty()) {
    beside = prepared(options_.output, position_.file);
    const std::string there = prepared(run, position.file);
    check_on_rank_zero(mesh_.world(), [&] {
      std::error_code ignored, error;
      ensure_writable_folder(parent_folder(beside));
      if (!fs::equivalent(there, beside, ignored))
        fs::copy_file(there, beside, fs::copy_options::overwrite_existing, error);
      ARCHON_VALIDATE(
          !error,
          "{}: {}; it holds what was computed from the weights before step {}, which the steps "
          "after the checkpoint need: bring it back, or take a checkpoint of another file",
          there, error.message(), position.began + 1);
      preparation_.check(feed_.path(position_.file), beside, position.began);
    });
  }
  use(position_.file, beside);
}

bool TrainingData::ready_after(int64_t step) {
  if (!position_.file.empty()) return true;
  const auto name = feed_.next(position_.consumed);
  if (!name) return false;
  const std::string data = feed_.path(*name);
  std::string beside;
  if (const auto absent = lacking(data); !absent.empty()) {
    beside = prepared(options_.output, *name);
    check_on_rank_zero(mesh_.world(), [&] { ensure_writable_folder(parent_folder(beside)); });
    preparation_.run(data, absent, beside, step);
  }
  // What is wrong in a file of rollouts is said before its first step.
  const std::vector<std::string> fields = objective_.fields();
  check_on_rank_zero(mesh_.world(), [&] {
    const TokenDataset dataset(data, loaded_.model->config().vocab_size, fields, beside);
    if (fields.empty()) return;
    dataset.rewards();
    dataset.check_all();
  });
  use(*name, beside);
  position_.began = step;
  check_temperature();
  return true;
}

void TrainingData::done(int64_t step) {
  if (!is_folder()) return;
  const int64_t steps = std::max<int64_t>(options_.epochs, 1) * sampler_->steps_per_epoch();
  if (step - position_.began < steps) return;
  position_.consumed.push_back(std::exchange(position_.file, ""));
}

}  // namespace archon
