#include <ATen/Parallel.h>

#include <chrono>
#include <filesystem>
#include <optional>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/base/memory.hpp"
#include "archon/comm/rank_zero.hpp"
#include "archon/data/sampler.hpp"
#include "archon/engine/evaluate.hpp"
#include "archon/engine/metrics.hpp"
#include "archon/engine/progress.hpp"
#include "archon/engine/run.hpp"
#include "archon/engine/train_step.hpp"
#include "archon/io/files.hpp"

namespace archon {
namespace {

using Clock = std::chrono::steady_clock;

/// World rank 0 makes the output folder; a folder that holds a run is refused or begun afresh.
void prepare_output(const TrainOptions& options) {
  const bool used = std::filesystem::exists(options.output + "/metrics.jsonl");
  ARCHON_VALIDATE(options.resume_auto || !used,
                  "--output {} holds a run already and --resume is none; choose another folder, "
                  "or remove this one",
                  options.output);
  ensure_writable_folder(options.output);
  if (used) log::warning("{} holds a run without a checkpoint; it is replaced", options.output);
}

class Trainer {
 public:
  Trainer(const TrainOptions& options, const Mesh& mesh, const LoadedModel& loaded)
      : options_(options),
        mesh_(mesh),
        loaded_(loaded),
        objective_{options.loss, options.value_eps_clip},
        batcher_(options.run, options.run.data, loaded.model->config(), mesh, objective_.fields()),
        sampler_(batcher_.dataset().size(), options.batch_sequences, options.shuffle,
                 options.run.seed),
        optimizer_(make_optimizer(options, *loaded.model, loaded.spec->adapter)) {
    if (!options_.eval_data.empty())
      eval_batcher_.emplace(options_.run, options_.eval_data, loaded_.model->config(), mesh_,
                            objective_.fields());
    if (options_.steps == 0) options_.steps = options_.epochs * sampler_.steps_per_epoch();
    options_.schedule.total_steps = options_.steps;
    if (!options_.record.file.empty())
      recorder_.emplace(options_.record.file, *loaded_.model, loaded_.spec->adapter, mesh_);
    if (mesh_.world().rank() == 0) metrics_.emplace(options_.output);
    announce();
  }

  void run() {
    Progress progress(mesh_.world().rank() == 0, 1, options_.steps);
    for (int64_t step = 1; step <= options_.steps; ++step) {
      const auto start = Clock::now();
      const double lr = options_.schedule.at(step);
      const bool record = options_.record.covers(step);
      if (record) recorder_->begin_step(step);
      const StepResult result =
          train_step(options_, loaded_, mesh_, batcher_, *optimizer_, sampler_.batch(step), lr,
                     record ? &*recorder_ : nullptr);
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      write_metrics(step, result, lr, seconds, progress);
      progress.update(step, result.loss, static_cast<double>(result.tokens) / seconds);
    }
    if (recorder_) recorder_->finish();
    if (options_.save_hf) save();
  }

 private:
  void announce() const {
    const DecoderConfig& config = loaded_.model->config();
    log::info("{}, {} parameters, {}; {} on {} ranks, threads per rank: {}", config.model_type,
              count_parameters(*loaded_.model),
              options_.run.dtype == at::kFloat ? "float32" : "bfloat16", to_string(mesh_.shape()),
              mesh_.world().size(), at::get_num_threads());
    log::info("{} sequences, {} tokens; {} steps of {} sequences", batcher_.dataset().size(),
              batcher_.dataset().tokens(), options_.steps,
              options_.batch_sequences == 0 ? batcher_.dataset().size() : options_.batch_sequences);
  }

  /// Held-out loss where this step asks for it, else NaN.
  double held_out_loss(int64_t step, Progress& progress) {
    const bool due =
        eval_batcher_ &&
        (step == options_.steps || (options_.eval_every > 0 && step % options_.eval_every == 0));
    if (!due) return std::numeric_limits<double>::quiet_NaN();
    const EvalResult result = evaluate(loaded_, mesh_, *eval_batcher_, objective_);
    progress.interrupt();
    log::info("step {}: held-out loss {:.4f} over {} targets", step, result.loss, result.targets);
    return result.loss;
  }

  void write_metrics(int64_t step, const StepResult& result, double lr, double seconds,
                     Progress& progress) {
    const int64_t peak = mesh_.world().all_reduce(peak_memory_bytes(), ReduceOp::max);
    MetricsRow row = {{"step", step},
                      {"loss", result.loss},
                      {"grad_norm", result.grad_norm},
                      {"lr", lr},
                      {"tokens", result.tokens},
                      {"targets", result.targets},
                      {"seconds", seconds},
                      {"tokens_per_second", static_cast<double>(result.tokens) / seconds},
                      {"peak_memory_bytes", peak}};
    if (eval_batcher_) row.emplace_back("eval_loss", held_out_loss(step, progress));
    if (metrics_) metrics_->write(row);
  }

  void save() {
    const std::string folder = options_.output + "/hf";
    save_hf_folder(*loaded_.model, loaded_.spec->adapter, mesh_, loaded_.folder, folder,
                   loaded_.model->config().stored_dtype, options_.max_shard_bytes);
    log::info("wrote {}", folder);
  }

  TrainOptions options_;
  const Mesh& mesh_;
  const LoadedModel& loaded_;
  Objective objective_;
  Batcher batcher_;
  std::optional<Batcher> eval_batcher_;
  Sampler sampler_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<GoldenRecorder> recorder_;
  std::optional<MetricsWriter> metrics_;  // world rank 0 only
};

}  // namespace

void run_train(const TrainOptions& options, MpiEnvironment& mpi) {
  const Mesh mesh(resolve_mesh_shape(options.run.mesh, mpi.world_size()), MPI_COMM_WORLD);
  check_on_rank_zero(mesh.world(), [&] { prepare_output(options); });
  const LoadedModel loaded = load_model(options.run.model, mesh, options.run.dtype, options.run.memory);
  Objective{options.loss, options.value_eps_clip}.validate(loaded.model->config());
  Trainer(options, mesh, loaded).run();
}

}  // namespace archon
