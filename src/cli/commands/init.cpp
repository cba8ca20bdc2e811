#include "archon/engine/run.hpp"
#include "archon/model/plugin_loader.hpp"
#include "command.hpp"

namespace archon::cli {
namespace {

class InitCommand : public LocalCommand {
  void declare(OptionSet& options) override {
    options.group("Options");
    options.require("config", text(config_, "FILE"),
                    "config.json of the model, in HuggingFace's form");
    options.require("output", text(output_, "DIR"), "HuggingFace folder to write");
    options.add("seed", integer<uint64_t>(seed_, 0), "seed of the random weights");
    options.add("dtype", compute_dtype(dtype_), "type of the weights in the file");
    options.add("max-shard-size", bytes(max_shard_bytes_),
                "largest safetensors file; a larger model is written as several");
    add_plugin_option(options, plugins_);
  }

  std::vector<std::pair<std::string, std::string>> examples() const override {
    return {{"archon init --config config.json --seed 1 --output model",
             "a model with float32 weights"},
            {"archon init --config config.json --seed 1 --output model --dtype bfloat16",
             "the same weights, rounded"}};
  }

  int run() override {
    load_plugins(plugins_);
    run_init(config_, seed_, output_, dtype_, max_shard_bytes_);
    return 0;
  }

  std::string config_, output_;
  uint64_t seed_ = 0;
  at::ScalarType dtype_ = at::kFloat;
  int64_t max_shard_bytes_ = int64_t{5} << 30;
  std::vector<std::string> plugins_;
};

}  // namespace

std::unique_ptr<Command> make_init() { return std::make_unique<InitCommand>(); }

}  // namespace archon::cli
