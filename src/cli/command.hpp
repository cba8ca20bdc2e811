#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "archon/comm/mpi.hpp"
#include "option_set.hpp"
#include "options.hpp"

namespace archon::cli {

/// One subcommand: its options and what it does. One object serves one run.
class Command {
 public:
  virtual ~Command() = default;
  /// Binds the command's variables to its options.
  virtual void declare(OptionSet& options) = 0;
  /// Refuses values that do not go together (InputError).
  virtual void check() const {}
  /// What the help says below the usage line; may be empty.
  virtual std::string details() const { return ""; }
  /// Command lines, each with a word on what it does.
  virtual std::vector<std::pair<std::string, std::string>> examples() const = 0;
};

/// A command of one process. It never starts MPI; under a launcher rank 0 runs it.
class LocalCommand : public Command {
 public:
  /// Exit code.
  virtual int run() = 0;
};

/// A command that all ranks run together.
class ParallelCommand : public Command {
 public:
  /// Exit code, the same on every rank.
  virtual int run(MpiEnvironment& mpi) = 0;
  const SessionOptions& session() const { return session_; }
  /// Role of the program of the same job that it sends weights to; empty without one.
  virtual std::string peer_role() const { return ""; }

 protected:
  SessionOptions session_;
};

struct CommandEntry {
  std::string name;
  std::string purpose;  ///< one line
  std::unique_ptr<Command> (*make)();
};

/// All commands, in the order of the help.
const std::vector<CommandEntry>& commands();
/// InputError with the nearest name when there is none of this name.
const CommandEntry& find_command(const std::string& name);

inline constexpr std::string_view kProgramPurpose =
    "post-trains large language models on a dp x cp x tp mesh of MPI ranks";
inline constexpr std::string_view kExitCodes =
    "0 done, 1 comparison failed, 2 wrong usage or input, 3 failed while running, 143 ended by "
    "SIGTERM";

/// Help of the program, and of one command.
std::string program_help();
std::string command_help(const CommandEntry& entry);

std::unique_ptr<Command> make_train();
std::unique_ptr<Command> make_eval();
std::unique_ptr<Command> make_forward();
std::unique_ptr<Command> make_generate();
std::unique_ptr<Command> make_reward();
std::unique_ptr<Command> make_init();
std::unique_ptr<Command> make_export();
std::unique_ptr<Command> make_diff();
std::unique_ptr<Command> make_inspect();
std::unique_ptr<Command> make_plan();
std::unique_ptr<Command> make_doctor();
std::unique_ptr<Command> make_plugins();

}  // namespace archon::cli
