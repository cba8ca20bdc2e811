#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <ostream>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/comm/agreement.hpp"
#include "archon/data/dataset.hpp"
#include "archon/engine/generator.hpp"
#include "archon/engine/loaded_model.hpp"
#include "archon/engine/run.hpp"
#include "archon/io/files.hpp"
#include "archon/io/json.hpp"
#include "archon/io/new_hdf5_file.hpp"

namespace archon {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// What a configuration names as end of a sequence: nothing, a token or a list of them.
std::vector<int64_t> end_tokens(const HfConfig& hf, int64_t vocab) {
  const Json eos = hf.json().value("eos_token_id", Json());
  std::vector<int64_t> tokens;
  if (eos.is_null()) return tokens;
  for (const Json& token : eos.is_array() ? eos : Json::array({eos})) {
    // An integer above int64 becomes a negative one.
    const int64_t id = token.is_number_integer() ? token.get<int64_t>() : -1;
    ARCHON_VALIDATE(id >= 0 && id < vocab,
                    "{}: \"eos_token_id\" is {}, but must be a token of the model, whose ids lie "
                    "in [0, {}), or a list of such; correct the file, or name the tokens that end "
                    "a rollout with --stop-tokens",
                    hf.source(), eos.dump(), vocab);
    tokens.push_back(id);
  }
  return tokens;
}

/// Those asked for; else the end-of-sequence tokens of generation_config.json or config.json.
std::vector<int64_t> stop_tokens(const GenerateOptions& options, const LoadedModel& loaded) {
  const int64_t vocab = loaded.model->config().vocab_size;
  if (options.stop_tokens) {
    for (const int64_t token : *options.stop_tokens)
      ARCHON_VALIDATE(token < vocab,
                      "stop token {} is no token of the model, whose ids lie in [0, {})", token,
                      vocab);
    return *options.stop_tokens;
  }
  const std::string settings = loaded.folder + "/generation_config.json";
  std::vector<int64_t> tokens;
  if (std::filesystem::exists(settings)) tokens = end_tokens(HfConfig::read(settings), vocab);
  if (tokens.empty()) tokens = end_tokens(loaded.hf.config, vocab);
  if (tokens.empty())
    log::warning(
        "the model's configuration names no end-of-sequence token, so every rollout has {} "
        "tokens; name the tokens that end one with --stop-tokens",
        options.max_new_tokens);
  return tokens;
}

/// Data-parallel ranks generate independently, and the first to finish wait for the last. So that
/// no collective waits for as long as that, which the watchdog would take for a hang, they meet
/// once a second.
class Meeting {
 public:
  explicit Meeting(const Mesh& mesh) : mesh_(mesh) {}

  /// As often as wanted. Not without work: who has none meets in wait_for_all, until all are there.
  void between_steps(int64_t unfinished) {
    if (unfinished == 0 || !mesh_.is_data_parallel_head()) return;
    if (seconds_since(last_) > 1) meet(unfinished);
  }
  /// Returns when all ranks are done.
  void wait_for_all() {
    if (!mesh_.is_data_parallel_head()) return;
    while (meet(0) > 0) continue;
  }

 private:
  int64_t meet(int64_t unfinished) {
    unfinished = mesh_.dp().all_reduce(unfinished);
    last_ = Clock::now();
    if (seconds_since(told_) < 10) return unfinished;
    log::info("{} rollouts to go", unfinished);
    told_ = last_;
    return unfinished;
  }

  const Mesh& mesh_;
  Clock::time_point last_ = Clock::now(), told_ = last_;
};

/// cp ranks, which would share a sequence in training, take sequences of their own.
MeshShape generation_mesh(MeshShape shape) { return {shape.dp * shape.cp, 1, shape.tp}; }

/// Weights stay gathered, so that data-parallel ranks need not wait for each other.
MemoryOptions unsharded() {
  MemoryOptions memory;
  memory.shard = ShardMode::none;
  return memory;
}

class GenerateRun {
 public:
  GenerateRun(const GenerateOptions& options, MpiEnvironment& mpi)
      : options_(options),
        mesh_(generation_mesh(resolve_mesh_shape(options.run.mesh, mpi.world_size())), mpi.world()),
        loaded_(load_model(options.run.model, mesh_, options.run.dtype, unsharded())),
        prompts_(options.run.data, loaded_.model->config().vocab_size) {
    ARCHON_VALIDATE(!loaded_.model->config().critic,
                    "{} is a critic (it has a score head and predicts no tokens), so nothing can "
                    "be sampled from it; give the actor",
                    options.run.model);
    warn_of_answers();
    warn_of_length();
    check_on_rank_zero(mesh_.world(), [&] {
      validate_no_input("--output", options.output, {options.run.data});
      file_.emplace(options.output, "archon.rollouts", 1);
    });
  }

  void run(std::ostream& json_out) {
    const auto begin = Clock::now();
    const std::vector<Rollout> all = collect_rollouts(generate(), mesh_);
    if (!file_) return;
    const double seconds = seconds_since(begin);
    write_rollouts(file_->file(), all);
    write_settings();
    file_->publish();
    log::info("wrote {}", options_.output);
    json_out << summary(all, seconds).dump() << std::endl;
  }

 private:
  /// Rollouts go on behind the last token of a sequence, be it a prompt or training data.
  void warn_of_answers() const {
    const h5::File& file = prompts_.file();
    if (mesh_.world().rank() == 0 && file.has("/loss_mask") &&
        file.read("/loss_mask", at::kLong).any().item<bool>())
      log::warning(
          "{} has answers in its prompts (its /loss_mask names targets); the rollouts go on behind "
          "them",
          options_.run.data);
  }

  /// Nothing else bounds positions, and rotary embeddings are computed for any.
  void warn_of_length() const {
    const HfConfig& config = loaded_.hf.config;
    const int64_t bound = config.integer("max_position_embeddings", 0);
    int64_t longest = 0;
    for (int64_t i = 0; i < prompts_.size(); ++i) longest = std::max(longest, prompts_.length(i));
    if (bound > 0 && longest + options_.max_new_tokens > bound)
      log::warning(
          "the longest prompt has {} tokens and --max-new-tokens is {}: together more than the {} "
          "of \"max_position_embeddings\" in {}, beyond which the model was not trained; shorten "
          "the prompts, or lower --max-new-tokens",
          longest, options_.max_new_tokens, bound, config.source());
  }

  /// This data-parallel rank's rollouts.
  std::vector<Rollout> generate() {
    Generator generator(*loaded_.model, mesh_, options_, stop_tokens(options_, loaded_));
    for (int64_t i = mesh_.dp_rank(); i < prompts_.size(); i += mesh_.shape().dp) {
      const at::Tensor tokens = prompts_.read(i).tokens;
      const auto* begin = tokens.const_data_ptr<int64_t>();
      generator.add_prompt(i, {begin, begin + tokens.numel()});
    }
    Meeting meeting(mesh_);
    std::vector<Rollout> rollouts;
    while (generator.unfinished() > 0) {
      std::vector<Rollout> finished = generator.step();
      std::move(finished.begin(), finished.end(), std::back_inserter(rollouts));
      meeting.between_steps(generator.unfinished());
    }
    meeting.wait_for_all();
    return rollouts;
  }

  Json summary(const std::vector<Rollout>& rollouts, double seconds) const {
    int64_t tokens = 0, longest = 0;
    for (const Rollout& rollout : rollouts) {
      tokens += rollout.completion_length();
      longest = std::max(longest, rollout.completion_length());
    }
    return {
        {"prompts", prompts_.size()}, {"rollouts", rollouts.size()},
        {"tokens", tokens},           {"longest", longest},
        {"seconds", seconds},         {"tokens_per_second", static_cast<double>(tokens) / seconds}};
  }

  void write_settings() {
    h5::File& file = file_->file();
    file.set_attribute("/", "model", loaded_.folder);
    file.set_attribute("/", "temperature", options_.temperature);
    file.set_attribute("/", "top_k", options_.top_k);
    file.set_attribute("/", "top_p", options_.top_p);
    file.set_attribute("/", "seed", options_.run.seed);
  }

  const GenerateOptions& options_;
  const Mesh mesh_;
  LoadedModel loaded_;
  TokenDataset prompts_;
  std::optional<h5::NewFile> file_;  // world rank 0 only
};

}  // namespace

void run_generate(const GenerateOptions& options, MpiEnvironment& mpi, std::ostream& json_out) {
  GenerateRun(options, mpi).run(json_out);
}

}  // namespace archon
