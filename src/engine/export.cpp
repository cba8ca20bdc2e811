#include <filesystem>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/checkpoint/checkpoint_reader.hpp"
#include "archon/engine/run.hpp"
#include "archon/model/registry.hpp"

namespace archon {

void run_export(const std::string& path, const std::string& output,
                std::optional<at::ScalarType> dtype, std::int64_t max_shard_bytes) {
  const auto checkpoint = find_checkpoint(path);
  ARCHON_VALIDATE(checkpoint,
                  "{} is no checkpoint; name a run's output folder, or one of the step folders in "
                  "its checkpoints/",
                  path);
  for (const char* name : {"manifest.json", "checkpoints", "metrics.jsonl"})
    ARCHON_VALIDATE(!std::filesystem::exists(std::filesystem::path(output) / name),
                    "--output {} is a checkpoint or a run's folder ({} is there), which the weights "
                    "of a model would hide; choose another folder",
                    output, name);
  const HfConfig hf = HfConfig::read(checkpoint->folder);
  const ModelSpec& spec = ModelRegistry::instance().find(hf.model_type());
  const auto model = spec.make_model(spec.parse_config(hf));
  export_checkpoint(checkpoint->folder, *model, spec.adapter, output,
                    dtype.value_or(model->config().stored_dtype), max_shard_bytes);
  log::info("wrote {} from {}", output, checkpoint->folder);
}

}  // namespace archon
