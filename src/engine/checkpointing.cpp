#include "archon/engine/checkpointing.hpp"

#include <algorithm>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/base/save_signal.hpp"
#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/io/json.hpp"

namespace archon {
namespace {

// Wishes; a larger one includes the smaller ones. kDue: by steps or the clock; the others: signals.
constexpr int64_t kNothing = 0, kDue = 1, kSave = 2, kSaveAndEnd = 3;

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

Checkpointing::Checkpointing(const TrainOptions& options, const LoadedModel& loaded,
                             Optimizer& optimizer, const Mesh& mesh,
                             const std::string& resumed_from)
    : options_(options.save),
      folder_(options.output + "/checkpoints"),
      mesh_(mesh),
      writer_(folder_, options.save.checkpoint, *loaded.model, optimizer, loaded.spec->adapter,
              loaded.hf, mesh),
      orderly_end_(std::in_place),
      begin_(Clock::now()),
      newest_(resumed_from) {}

int64_t Checkpointing::wish() {
  const bool save_signal = take_save_signal();
  if (orderly_end_->asked()) return kSaveAndEnd;
  const bool due_by_clock = mesh_.world().rank() == 0 && options_.minutes > 0 &&
                            seconds_since(begin_) >= 60 * options_.minutes;
  if (save_signal) return kSave;
  return due_by_clock ? kDue : kNothing;
}

void Checkpointing::after_step(int64_t step, int64_t wish, const std::function<Json()>& state) {
  unsaved_ = step;
  const bool due_by_steps = options_.every > 0 && step % options_.every == 0;
  answer(step, std::max(wish, due_by_steps ? kDue : kNothing), state);
}

void Checkpointing::while_waiting(int64_t step, int64_t wish, const std::function<Json()>& state) {
  answer(step, wish, state);
}

void Checkpointing::answer(int64_t step, int64_t wish, const std::function<Json()>& state) {
  tell(writer_.poll());
  ended_ = wish == kSaveAndEnd;
  if (ended_) orderly_end_->begin();
  if (wish == kNothing) return;
  if (step > 0 && unsaved_ == step)
    save(step, state);
  else if (wish == kSave)  // job_scripts/job.sh waits for one or the other
    log::info("nothing to save: no step was done since the last checkpoint");
}

void Checkpointing::save(int64_t step, const std::function<Json()>& state) {
  tell(writer_.finish());
  unsaved_ = 0;
  begin_ = Clock::now();
  tell(writer_.save(step, state()));
}

void Checkpointing::tell(const CheckpointResult& result) {
  if (result.step == 0) return;
  last_ = result;
  if (!result.complete) {
    unsaved_ = std::max(unsaved_, result.step);
    log::warning("no checkpoint of step {}: {}; {}", result.step, result.failure, good_one());
    return;
  }
  newest_ = result.folder;
  log::info("checkpoint of step {} in {:.2f} s{}: {}", result.step, seconds_since(begin_),
            options_.checkpoint.async
                ? fmt::format(", of which training stood still for {:.2f} s", result.seconds_paused)
                : "",
            result.folder);
  if (mesh_.world().rank() == 0) prune_checkpoints(folder_, options_.keep);
}

void Checkpointing::finish(const std::function<Json()>& state, bool must_save) {
  if (unsaved_ > 0 && (options_.planned() || must_save)) save(unsaved_, state);
  tell(writer_.finish());
  orderly_end_.reset();
}

void Checkpointing::ensure_saved() const {
  ARCHON_ENSURE(last_.step == 0 || last_.complete,
                "the last checkpoint, of step {}, was not written: {}; {}", last_.step,
                last_.failure, good_one());
}

std::string Checkpointing::good_one() const {
  return newest_.empty() ? "there is none yet" : "the newest good one is " + newest_;
}

}  // namespace archon
