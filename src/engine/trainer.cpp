#include <chrono>
#include <cmath>
#include <filesystem>
#include <optional>
#include <thread>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/base/memory.hpp"
#include "archon/comm/gpu_runtime.hpp"
#include "archon/comm/agreement.hpp"
#include "archon/engine/checkpointing.hpp"
#include "archon/engine/evaluate.hpp"
#include "archon/engine/gemm_peak.hpp"
#include "archon/engine/metrics.hpp"
#include "archon/engine/plan.hpp"
#include "archon/engine/profile.hpp"
#include "archon/engine/progress.hpp"
#include "archon/engine/resume.hpp"
#include "archon/engine/run.hpp"
#include "archon/engine/step_meter.hpp"
#include "archon/engine/train_step.hpp"
#include "archon/engine/trainer_state.hpp"
#include "archon/engine/weight_sync.hpp"
#include "archon/io/files.hpp"
#include "archon/mesh/topology.hpp"

namespace archon {
namespace fs = std::filesystem;
namespace {

// How often a run that waits for data looks for it, and listens to signals.
constexpr auto kLookForData = std::chrono::milliseconds(200);

/// Of the steps that an option names, those up to `done` were run before. `end` is the run's last
/// step, or 0 where it has none.
void leave_out(const char* option, int64_t done, int64_t end, std::string& file, int64_t& first,
               int64_t last) {
  if (file.empty() || first > done) return;
  const bool others = done < last && (end == 0 || done < end);
  log::warning("{} {}-{}: steps up to {} were run before; {}", option, first, last, done,
               others ? fmt::format("{} will hold the others", file)
                      : fmt::format("{} is not written", file));
  first = done + 1;
  if (!others) file.clear();
}

/// The output folder of the run that a checkpoint is of: this run's, wherever a link puts its
/// checkpoints.
std::string run_of(const std::string& checkpoint, const std::string& output) {
  std::error_code ignored;
  if (fs::equivalent(parent_folder(checkpoint), output + "/checkpoints", ignored)) return output;
  return fs::weakly_canonical(checkpoint).parent_path().parent_path().string();
}

/// Each *.h5 in a folder of data is trained on.
void validate_held_out(const std::string& file, const std::string& data) {
  std::error_code ignored;
  ARCHON_VALIDATE(!file.ends_with(".h5") || !fs::equivalent(parent_folder(file), data, ignored),
                  "--eval-data {} lies in the folder --data {}, whose files are trained on; put it "
                  "elsewhere",
                  file, data);
}

void append(MetricsRow& row, const StepCost& cost) {
  row.emplace_back("peak_memory_bytes", cost.peak_memory_bytes);
  for (std::size_t i = 0; i < kActivityNames.size(); ++i) {
    row.emplace_back(fmt::format("{}_seconds", kActivityNames[i]), cost.mean[i]);
    row.emplace_back(fmt::format("{}_seconds_max", kActivityNames[i]), cost.largest[i]);
  }
  for (const auto& [axis, sent] : cost.sent) {
    row.emplace_back(fmt::format("{}_bytes", axis), sent.bytes);
    row.emplace_back(fmt::format("{}_messages", axis), sent.messages);
  }
}

class Trainer {
 public:
  Trainer(const TrainOptions& options, const Mesh& mesh, const LoadedModel& loaded,
          const DataFeed& feed, const std::vector<CheckpointEntry>& checkpoints,
          int64_t memory_at_start)
      : options_(options),
        mesh_(mesh),
        loaded_(loaded),
        objective_(options.loss),
        data_(options_, loaded, objective_, mesh, feed),
        optimizer_(make_optimizer(options, *loaded.model, loaded.spec->adapter)),
        meter_(mesh),
        memory_at_start_(memory_at_start),
        gemm_peak_(gemm_peak(mesh, options.run.dtype)) {
    if (mesh.gpu() != nullptr) mesh.gpu()->forget_peak_memory();  // that of the products just measured
    check_files();
    if (checkpoints.empty())
      begin();
    else
      resume(checkpoints);
    start_record();
    if (mesh_.world().rank() == 0) open_metrics();
  }

  /// False when SIGTERM ended it.
  bool run(MpiEnvironment& mpi) {
    Progress progress(mesh_.world().rank() == 0, position_.step + 1, options_.steps);
    Profile profile(options_.profile, options_.steps > 0 ? options_.steps : INT64_MAX, mesh_);
    Checkpointing checkpoints(options_, loaded_, *optimizer_, mesh_, resumed_from_);
    WeightSync sync(options_, loaded_, mesh_, mpi,
                    [&checkpoints] { return checkpoints.ending(); });
    sync.offer(position_.step);
    while (!checkpoints.ended() && more(checkpoints)) {
      const int64_t step = position_.step + 1;
      profile.before(step);
      const double lr = options_.schedule.at(step);
      const std::vector<int64_t> sequences = data_.batch(step);
      const StepResult result = take_step(step, sequences, lr);
      const double gflops = data_.batcher().flop(sequences) * 1e-9 / meter_.seconds();
      const StepCost cost = meter_.gather(checkpoints.wish());
      write_metrics(step, result, cost, lr, gflops);
      profile.after(step);
      progress.update(step, result.loss, static_cast<double>(result.tokens) / meter_.seconds(),
                      gflops / gemm_peak_);
      count_skipped(step, result);
      position_.step = step;
      data_.done(step);
      checkpoints.after_step(step, cost.wish, [this] { return state(); });
      sync.offer(step);
    }
    checkpoints.finish([this] { return state(); });
    profile.finish();
    cut_record();
    if (checkpoints.ended()) {
      checkpoints.ensure_saved();
      const bool consumer_knows = sync.finish();
      log::info("ended by SIGTERM after step {}; the same command goes on from there",
                position_.step);
      // MPI_Finalize would wait for a consumer that waits for weights.
      if (!consumer_knows)
        mpi.abort(
            "archon: warning: the consumer of weights does not ask for the next version, and so "
            "cannot be told that the run ends: the whole job is ended\n",
            kExitTerminated);
      return false;
    }
    report_memory();
    if (options_.save_hf) save();
    checkpoints.ensure_saved();
    sync.finish();
    return true;
  }

 private:
  /// What would come up only after steps: a held-out set that cannot be read, or an output that
  /// would destroy one that is.
  void check_files() {
    if (!options_.eval_data.empty()) {
      check_on_rank_zero(mesh_.world(), [&] { check_held_out_fields(); });
      eval_batcher_.emplace(options_.run, options_.eval_data, loaded_.model->config(), mesh_,
                            DataNeeds{.fields = objective_.fields(), .unit = objective_.unit()});
    }
    check_on_rank_zero(mesh_.world(), [&] {
      std::vector<std::string> read = {options_.run.data};
      if (eval_batcher_) {
        read.push_back(options_.eval_data);
        validate_held_out(options_.eval_data, options_.run.data);
        validate_has_targets("--eval-data", options_.eval_data,
                             eval_batcher_->dataset().check_all());
      }
      const std::pair<const char*, std::string> written[] = {
          {"--record", options_.record.file}, {"--profile", options_.profile.file}};
      for (const auto& [option, file] : written) {
        if (file.empty()) continue;
        validate_no_input(option, file, read);
        validate_new_file(file);
      }
      if (!options_.sync.publish.empty()) ensure_writable_folder(options_.sync.publish);
    });
  }

  /// Held-out data are taken as they are: what --data lacks is computed, what they lack is not.
  void check_held_out_fields() const {
    const h5::File file = h5::File::open(options_.eval_data);
    for (const std::string& field : objective_.fields())
      ARCHON_VALIDATE(file.has("/" + field),
                      "--eval-data {} has no /{}, which --loss {} needs: it is computed for "
                      "--data alone; add the dataset (docs/reinforcement-learning.md says how), or "
                      "leave --eval-data out",
                      options_.eval_data, field, to_string(objective_.options.kind));
  }

  /// How many steps there are is known at once but for a folder, which may grow.
  void fix_length() {
    if (!data_.is_folder() && options_.steps == 0)
      options_.steps = options_.epochs * data_.sampler().steps_per_epoch();
    options_.schedule.total_steps = options_.steps;
  }

  void announce() const {
    const DecoderConfig& config = loaded_.model->config();
    log::info("{}, {} parameters, {}; {} on {} {}; matrix products reach {:.0f} GFLOP/s",
              config.model_type, count_parameters(*loaded_.model),
              options_.run.dtype == at::kFloat ? "float32" : "bfloat16", to_string(mesh_.shape()),
              mesh_.world().size(), mesh_.device().is_cpu() ? "ranks" : "GPUs", gemm_peak_);
    if (data_.is_folder()) {
      log::info("the files of {}, {} over each{}", options_.run.data,
                options_.epochs > 1 ? fmt::format("{} passes", options_.epochs) : "one pass",
                options_.steps > 0 ? fmt::format("; {} steps at most", options_.steps) : "");
      return;
    }
    const TokenDataset& dataset = data_.batcher().dataset();
    log::info("{} sequences, {} tokens; {} steps of {} sequences", dataset.size(), dataset.tokens(),
              options_.steps,
              options_.batch_sequences == 0 ? dataset.size() : options_.batch_sequences);
  }

  void begin() {
    if (!data_.is_folder()) data_.ready_after(0);
    ARCHON_VALIDATE(!data_.is_folder() || options_.data_wait > 0 || data_.has_more(),
                    "--data {} is a folder without *.h5 files; make them, name another, or wait "
                    "for them with --data-wait SECONDS",
                    options_.run.data);
    fix_length();
    announce();
  }

  void resume(const std::vector<CheckpointEntry>& checkpoints) {
    const LoadedCheckpoint checkpoint = load_newest(checkpoints, loaded_, *optimizer_, mesh_);
    resumed_from_ = checkpoint.folder;
    data_.resume(saved_data_position(checkpoint.trainer), run_of(checkpoint.folder, options_.output));
    fix_length();
    announce();
    position_ = restore_trainer_state(checkpoint.trainer, options_, data_.sequences(), mesh_);
    const bool complete = options_.steps > 0 && position_.step >= options_.steps;
    log::info("{} after step {}{}, from {}", complete ? "the run is complete" : "goes on",
              position_.step, options_.steps > 0 ? fmt::format(" of {}", options_.steps) : "",
              checkpoint.folder);
    RecordOptions& record = options_.record;
    leave_out("--record-steps", position_.step, options_.steps, record.file, record.first_step,
              record.last_step);
    ProfileOptions& profile = options_.profile;
    leave_out("--profile-steps", position_.step, options_.steps, profile.file, profile.first_step,
              profile.last_step);
  }

  /// Whether another step can be taken: the data for it are open then. A file that is refused costs
  /// no step that was done.
  bool more(Checkpointing& checkpoints) {
    if (options_.steps > 0 && position_.step >= options_.steps) return false;
    try {
      return data_.ready_after(position_.step) || wait_for_data(checkpoints);
    } catch (const SharedInputError&) {
      checkpoints.finish([this] { return state(); }, /*must_save=*/true);
      throw;
    }
  }

  /// Waits for another file of a growing folder; false when none came in time, or SIGTERM did.
  bool wait_for_data(Checkpointing& checkpoints) {
    if (options_.data_wait == 0) return false;
    log::info("every file of {} is used up; waiting up to {} s for another", options_.run.data,
              options_.data_wait);
    const auto begin = std::chrono::steady_clock::now();
    while (!checkpoints.ended()) {
      std::this_thread::sleep_for(kLookForData);
      if (data_.ready_after(position_.step)) return true;
      checkpoints.while_waiting(position_.step,
                                mesh_.world().all_reduce(checkpoints.wish(), ReduceOp::max),
                                [this] { return state(); });
      const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - begin;
      const int64_t over = mesh_.world().rank() == 0 && waited.count() > options_.data_wait;
      if (mesh_.world().all_reduce(over, ReduceOp::max) == 1) return false;
    }
    return false;
  }

  void open_metrics() {
    metrics_.emplace(options_.output, position_.step);
    if (metrics_->last_step() < position_.step)
      log::warning("{}/metrics.jsonl ends with step {}: those of steps up to {} are absent",
                   options_.output, metrics_->last_step(), position_.step);
  }

  Json state() const {
    if (metrics_) metrics_->sync();
    return trainer_state(position_, data_.position(), options_, data_.sequences(), mesh_);
  }

  /// Held-out loss where this step asks for it, else NaN.
  double held_out_loss(int64_t step) {
    const bool due =
        eval_batcher_ &&
        (step == options_.steps || (options_.eval_every > 0 && step % options_.eval_every == 0));
    if (!due) return std::numeric_limits<double>::quiet_NaN();
    const EvalResult result = evaluate(loaded_, mesh_, *eval_batcher_, objective_);
    log::info("step {}: held-out loss {:.4f} over {} targets", step, result.loss, result.targets);
    return result.loss;
  }

  StepResult take_step(int64_t step, const std::vector<int64_t>& sequences, double lr) {
    const TraceSpan span("step", {.number = step});
    const bool record = options_.record.covers(step);
    if (record) recorder_->begin_step(step);
    meter_.begin();
    const StepResult result =
        train_step(options_, objective_, loaded_, mesh_, data_.batcher(), *optimizer_, sequences,
                   lr, record ? &*recorder_ : nullptr);
    meter_.end();
    if (record && step == options_.record.last_step) finish_record();
    return result;
  }

  void start_record() {
    const RecordOptions& record = options_.record;
    if (record.file.empty()) return;
    ARCHON_VALIDATE(options_.steps == 0 || record.first_step <= options_.steps,
                    "--record-steps {}-{} begin after the last step, {}; name steps that are run, or "
                    "leave --record out",
                    record.first_step, record.last_step, options_.steps);
    recorder_.emplace(record.file, *loaded_.model, loaded_.spec->adapter, mesh_);
  }

  /// As soon as it is whole: whatever ends the run later leaves it.
  void finish_record() {
    if (recorder_) recorder_->finish();
    recorder_.reset();
  }

  /// Of a run that ended before the last step to record.
  void cut_record() {
    if (!recorder_) return;
    const RecordOptions& record = options_.record;
    const bool some = position_.step >= record.first_step;
    log::warning("--record-steps {}-{}: the run ended after step {}; {} {}", record.first_step,
                 record.last_step, position_.step, record.file,
                 some ? "holds the steps up to it" : "is not written");
    if (some) finish_record();
  }

  void write_metrics(int64_t step, const StepResult& result, const StepCost& cost, double lr,
                     double gflops) {
    // Outside of the step's traffic, as what the meter gathers.
    const LossStatistics::Row statistics = objective_.options.kind == LossKind::sft
                                               ? LossStatistics::Row()
                                               : result.statistics.reduce(mesh_.world());
    MetricsRow row = {{"step", step},
                      {"loss", result.loss},
                      {"grad_norm", result.grad_norm},
                      {"lr", lr},
                      {"tokens", result.tokens},
                      {"targets", result.targets},
                      {"skipped", result.stepped ? 0 : 1},
                      {"seconds", meter_.seconds()},
                      {"tokens_per_second", static_cast<double>(result.tokens) / meter_.seconds()},
                      {"gflops", gflops},
                      {"gemm_peak_share", gflops / gemm_peak_}};
    row.insert(row.end(), statistics.begin(), statistics.end());
    append(row, cost);
    if (eval_batcher_) row.emplace_back("eval_loss", held_out_loss(step));
    if (!metrics_) return;
    const ActivityScope writing(Activity::io, "metrics");
    metrics_->write(row);
  }

  /// Weights that give no finite gradient do not heal: the run would go on without learning.
  void count_skipped(int64_t step, const StepResult& result) {
    int64_t& skipped = position_.skipped_in_a_row;
    skipped = std::isfinite(result.grad_norm) ? 0 : skipped + 1;
    ARCHON_ENSURE(options_.max_skipped_steps == 0 || skipped < options_.max_skipped_steps,
                  "the gradient norm was not finite at {} steps in a row (step {}: loss {}, norm "
                  "{}): none of them changed a weight, so the run does not go on; look at the loss "
                  "before them in metrics.jsonl, lower --lr or --clip-grad-norm, check --model and "
                  "--data, or allow more with --max-skipped-steps",
                  skipped, step, result.loss, result.grad_norm);
  }

  /// The largest rank's peak beside what `archon plan` says of the first step.
  void report_memory() const {
    if (!data_.open()) return;
    const int64_t peak =
        mesh_.world().all_reduce(peak_memory_of(mesh_) - memory_at_start_, ReduceOp::max);
    TrainOptions planned = options_;
    planned.run.mesh = mesh_.shape();
    std::vector<int64_t> lengths;
    for (const int64_t sequence : data_.sampler().batch(1))
      lengths.push_back(data_.batcher().dataset().length(sequence));
    const DecoderConfig& config = loaded_.model->config();
    StepPlan plan = plan_step(*loaded_.spec, config, planned,
                              shape_of_batch(lengths, planned.run, config, mesh_.shape()));
    if (!mesh_.device().is_cpu()) plan.memory.leave_out_fixed();
    log::info(
        "peak memory per rank: {} MiB above what the process held before the model, {} MiB "
        "planned",
        peak >> 20, plan.memory.peak().total() >> 20);
  }

  void save() {
    const ActivityScope writing(Activity::io, "save");
    const std::string folder = options_.output + "/hf";
    save_hf_folder(*loaded_.model, loaded_.spec->adapter, mesh_, loaded_.hf, folder,
                   loaded_.model->config().stored_dtype, options_.max_shard_bytes);
    log::info("wrote {}", folder);
  }

  TrainOptions options_;
  const Mesh& mesh_;
  const LoadedModel& loaded_;
  Objective objective_;
  TrainingData data_;
  std::optional<Batcher> eval_batcher_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<GoldenRecorder> recorder_;
  std::optional<MetricsWriter> metrics_;  // world rank 0 only
  StepMeter meter_;
  int64_t memory_at_start_;
  double gemm_peak_;  // GFLOP/s of all ranks
  TrainerPosition position_;
  std::string resumed_from_;  // folder of a checkpoint, or empty
};

}  // namespace

bool run_train(const TrainOptions& given, MpiEnvironment& mpi) {
  const Mesh mesh = start_mesh(given.run.mesh, given.run.device, mpi);
  TrainOptions options = given;
  // They may name the newest of what this run is about to make.
  for (std::string* const model : {&options.loss.reference, &options.loss.critic_model})
    if (!model->empty()) *model = model_folder(*model, mesh.world());
  ARCHON_VALIDATE(!options.run.memory.activations.offload || !mesh.device().is_cpu(),
                  "--activation-offload on has no GPU to take activations off: the run computes on "
                  "the CPU; leave it out");
  const DataFeed feed(options.run.data, mesh.world());  // first: what is not there needs no weights
  check_on_rank_zero(mesh.world(), [&] {
    Objective(options.loss).validate(read_decoder_config(options.run.model));
  });
  const RunFolder folder = prepare_output(options, mesh);
  const int64_t memory_at_start = mesh.device().is_cpu() ? resident_memory_bytes() : 0;
  const RunOptions& run = options.run;
  LoadedModel loaded = folder.checkpoints.empty()
                           ? load_model(run.model, mesh, run.dtype, run.memory)
                           : allocate_model(run.model, mesh, run.dtype, run.memory);
  check_on_rank_zero(mesh.world(), [&] { loaded.hf = read_hf_companions(loaded.folder); });
  return Trainer(options, mesh, loaded, feed, folder.checkpoints, memory_at_start).run(mpi);
}

}  // namespace archon
