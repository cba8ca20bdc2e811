#include "archon/engine/run.hpp"
#include "archon/model/plugin_loader.hpp"
#include "command.hpp"

namespace archon::cli {
namespace {

class TrainCommand : public ParallelCommand {
  void declare(OptionSet& options) override {
    add_train_options(options, train_);
    add_session_options(options, session_);
  }

  void check() const override { check_train_options(train_); }

  std::vector<std::pair<std::string, std::string>> examples() const override {
    return {{"mpiexec -n 4 archon train --model qwen3 --data train.h5 --output run --steps 100 "
             "--lr 1e-4 --cp 2 --tp 2",
             "100 steps on four ranks: two-way context and two-way tensor parallelism"},
            {"archon train --model qwen3 --data train.h5 --output run1 --steps 5 --record run1.h5 "
             "--record-steps 1-5",
             "five steps on one rank, recorded for archon diff"},
            {"mpiexec -n 8 archon train --config sft.conf --seed 7",
             "options from a file, one of them replaced"}};
  }

  std::string peer_role() const override { return train_.sync.push_role; }

  int run(MpiEnvironment& mpi) override {
    load_plugins(session_.plugins);
    return run_train(train_, mpi) ? 0 : kExitTerminated;
  }

  TrainOptions train_;
};

}  // namespace

std::unique_ptr<Command> make_train() { return std::make_unique<TrainCommand>(); }

}  // namespace archon::cli
