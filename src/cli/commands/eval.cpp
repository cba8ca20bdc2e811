#include <iostream>

#include "archon/engine/run.hpp"
#include "archon/model/plugin_loader.hpp"
#include "command.hpp"

namespace archon::cli {
namespace {

class EvalCommand : public ParallelCommand {
  void declare(OptionSet& options) override {
    options.group("Model and data");
    add_input_options(options, run_);
    add_batch_options(options, run_);
    add_shard_option(options, run_);
    add_mesh_options(options, run_);
    add_device_option(options, run_);
    add_session_options(options, session_);
  }

  std::vector<std::pair<std::string, std::string>> examples() const override {
    return {{"archon eval --model run/hf --data held-out.h5", "loss over a file, on one rank"},
            {"mpiexec -n 4 archon eval --model run/hf --data held-out.h5 --tp 2",
             "the same over dp 2 x tp 2"}};
  }

  int run(MpiEnvironment& mpi) override {
    load_plugins(session_.plugins);
    run_eval(run_, mpi, std::cout);
    return 0;
  }

  RunOptions run_;
};

}  // namespace

std::unique_ptr<Command> make_eval() { return std::make_unique<EvalCommand>(); }

}  // namespace archon::cli
