#include "archon/engine/run.hpp"
#include "archon/model/plugin_loader.hpp"
#include "command.hpp"

namespace archon::cli {
namespace {

class ExportCommand : public LocalCommand {
  void declare(OptionSet& options) override {
    options.group("Options");
    options.require("checkpoint", text(checkpoint_, "DIR"),
                    "checkpoint to read: a step folder, or a run's output folder (its newest)");
    options.require("output", text(output_, "DIR"), "HuggingFace folder to write");
    options.add("dtype",
                choice<std::optional<at::ScalarType>>(dtype_, {{"auto", std::nullopt},
                                                               {"float32", at::kFloat},
                                                               {"bfloat16", at::kBFloat16},
                                                               {"float16", at::kHalf}}),
                "type of the weights in the file; auto: the one that config.json names");
    options.add("max-shard-size", bytes(max_shard_bytes_),
                "largest safetensors file; a larger model is written as several");
    add_plugin_option(options, plugins_);
    options.add_settings_file();
  }

  std::vector<std::pair<std::string, std::string>> examples() const override {
    return {{"archon export --checkpoint run --output model",
             "the newest checkpoint of a run, also while it goes on"},
            {"archon export --checkpoint run/checkpoints/step-00000100 --output model "
             "--dtype float32",
             "an earlier one, its master weights as they are"}};
  }

  int run() override {
    load_plugins(plugins_);
    run_export(checkpoint_, output_, dtype_, max_shard_bytes_);
    return 0;
  }

  std::string checkpoint_, output_;
  std::optional<at::ScalarType> dtype_;
  int64_t max_shard_bytes_ = int64_t{5} << 30;
  std::vector<std::string> plugins_;
};

}  // namespace

std::unique_ptr<Command> make_export() { return std::make_unique<ExportCommand>(); }

}  // namespace archon::cli
