#include "archon/engine/evaluate.hpp"

#include <c10/core/GradMode.h>

#include <chrono>
#include <cmath>
#include <ostream>

#include "archon/base/error.hpp"
#include "archon/engine/run.hpp"
#include "archon/io/json.hpp"
#include "archon/mesh/topology.hpp"

namespace archon {

EvalResult evaluate(const LoadedModel& loaded, const Mesh& mesh, const Batcher& batcher,
                    const Objective& objective) {
  const c10::NoGradGuard no_grad;
  EvalResult result{0, batcher.dataset().size(), batcher.dataset().tokens(), 0};
  double sum = 0, size = 0;
  int64_t targets = 0;
  batcher.for_each([&](const PackedBatch& batch) {
    sum += objective(*loaded.model, mesh, batch, /*scale=*/1.0).share;
    size += objective.size(batch);
    targets += batch.targets;
  });
  result.targets = mesh.dp().all_reduce(targets);
  sum = mesh.shard_group().all_reduce(sum);
  size = mesh.dp().all_reduce(size);
  if (result.targets > 0 && size > 0) result.loss = sum / size;
  return result;
}

void validate_has_targets(const char* option, const std::string& data, int64_t targets) {
  ARCHON_VALIDATE(targets > 0,
                  "{} {} has no target token, so there is no loss of it: its /loss_mask is 0 "
                  "everywhere, or every sequence is one token long",
                  option, data);
}

void run_eval(const RunOptions& options, MpiEnvironment& mpi, std::ostream& json_out) {
  const Mesh mesh = start_mesh(options.mesh, options.device, mpi);
  const LoadedModel loaded = load_model(options.model, mesh, options.dtype, options.memory);
  LossOptions loss;
  loss.kind = loaded.model->config().critic ? LossKind::critic : LossKind::sft;
  const Objective objective(loss);
  const Batcher batcher(options, options.data, loaded.model->config(), mesh,
                        {.fields = objective.fields()});
  const auto start = std::chrono::steady_clock::now();
  const EvalResult result = evaluate(loaded, mesh, batcher, objective);
  validate_has_targets("--data", options.data, result.targets);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (mesh.world().rank() != 0) return;
  Json json = {{"loss", result.loss},
               {"sequences", result.sequences},
               {"tokens", result.tokens},
               {"targets", result.targets},
               {"seconds", seconds},
               {"tokens_per_second", static_cast<double>(result.tokens) / seconds}};
  if (!loaded.model->config().critic) json["perplexity"] = std::exp(result.loss);
  json_out << json.dump(2) << std::endl;
}

}  // namespace archon
