#include "archon/engine/run.hpp"
#include "archon/model/plugin_loader.hpp"
#include "command.hpp"

namespace archon::cli {
namespace {

class ForwardCommand : public ParallelCommand {
  void declare(OptionSet& options) override {
    options.group("Model and data");
    add_input_options(options, forward_.run);
    add_batch_options(options, forward_.run);
    options.group("Output");
    options.require("output", text(forward_.output, "FILE"), "HDF5 file to write");
    options.add("what",
                subset({{"logprobs", &forward_.logprobs},
                        {"entropy", &forward_.entropy},
                        {"logits", &forward_.logits},
                        {"values", &forward_.values},
                        {"hidden", &forward_.hidden}}),
                "any of logprobs, entropy, logits, values (of a critic), hidden (the residual "
                "stream after every layer, and the final norm)");
    options.add("temperature", number(forward_.temperature, kTemperature),
                "divides the logits before log-probabilities and entropy");
    add_shard_option(options, forward_.run);
    add_mesh_options(options, forward_.run);
    add_device_option(options, forward_.run);
    add_session_options(options, session_);
  }

  void check() const override {
    ARCHON_VALIDATE(forward_.temperature == 1 || forward_.logprobs || forward_.entropy,
                    "--temperature {} is for log-probabilities and entropy, and --what names "
                    "neither; leave it out, or name one",
                    forward_.temperature);
  }

  std::vector<std::pair<std::string, std::string>> examples() const override {
    return {{"archon forward --model qwen3 --data batch.h5 --output out.h5",
             "log-probability of every token"},
            {"mpiexec -n 4 archon forward --model qwen3 --data batch.h5 --output out4.h5 "
             "--what logprobs,entropy,hidden --cp 4",
             "more, with the sequence cut over four ranks"}};
  }

  int run(MpiEnvironment& mpi) override {
    load_plugins(session_.plugins);
    run_forward(forward_, mpi);
    return 0;
  }

  ForwardOptions forward_;
};

}  // namespace

std::unique_ptr<Command> make_forward() { return std::make_unique<ForwardCommand>(); }

}  // namespace archon::cli
