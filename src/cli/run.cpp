#include "archon/cli/run.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <new>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/base/memory.hpp"
#include "archon/base/save_signal.hpp"
#include "archon/base/threads.hpp"
#include "archon/base/version.hpp"
#include "archon/comm/mpi.hpp"
#include "archon/comm/tensor_memory.hpp"
#include "archon/comm/watchdog.hpp"
#include "command.hpp"

namespace archon::cli {
namespace {

constexpr int kExitDone = 0;
constexpr int kExitUsage = 2;
constexpr int kExitFailed = 3;

struct Fault {
  std::string message;
  int exit_code;
};

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// Call inside a catch block: what is being handled, in words.
Fault describe_current_exception() {
  try {
    throw;
  } catch (const InputError& error) {
    return {error.what(), kExitUsage};
  } catch (const c10::Error& error) {
    return {first_line(error.what_without_backtrace()), kExitFailed};
  } catch (const std::bad_alloc&) {
    return {
        "out of memory; lower --micro-batch-tokens, raise --tp or --cp, or use a machine with "
        "more memory",
        kExitFailed};
  } catch (const std::exception& error) {
    return {error.what(), kExitFailed};
  } catch (...) {
    return {"failed with an exception of unknown type", kExitFailed};
  }
}

void flush_results() {
  std::cout.flush();
  ARCHON_ENSURE(std::cout.good(), "results could not be written to standard output");
}

bool asks_for_help(const std::vector<std::string>& arguments) {
  return std::any_of(arguments.begin(), arguments.end(), [](const std::string& argument) {
    return argument == "--help" || argument == "-h";
  });
}

/// Sets this rank's threads; says what their number comes from.
std::string set_threads(const SessionOptions& session, const MpiEnvironment& mpi) {
  if (session.threads > 0) {
    at::set_num_threads(session.threads);
    return "--threads";
  }
  if (std::getenv("OMP_NUM_THREADS") != nullptr) return "OMP_NUM_THREADS";
  const int cores = available_cores(), sharing = mpi.ranks_sharing_cores();
  at::set_num_threads(threads_per_rank(cores, sharing));
  return describe_cores(cores, sharing);
}

void start_session(const SessionOptions& session, const MpiEnvironment& mpi) {
  log::configure(session.log_level, mpi.world_rank(), mpi.world_size());
  const std::string source = set_threads(session, mpi);
  log::info("threads per rank: {} ({})", at::get_num_threads(), source);
  if (session.deterministic)
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
}

/// As many as the system allows: the files of a large model are open until all are whole.
void allow_open_files() {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

int run_parallel(ParallelCommand& command) {
  keep_freed_memory();
  keep_tensor_memory();
  Watchdog watchdog(std::chrono::duration<double>(command.session().collective_timeout),
                    launcher_rank());
  MpiEnvironment mpi;
  try {
    mpi.join_job(command.peer_role());
    watchdog.begin_work(mpi.world_rank());
    start_session(command.session(), mpi);
    const int code = command.run(mpi);
    flush_results();
    return code;
  } catch (...) {
    const Fault fault = describe_current_exception();
    const std::string rank = mpi.world_size() > 1 ? fmt::format("[{}]", mpi.world_rank()) : "";
    mpi.abort(fmt::format("archon{}: error: {}\n", rank, fault.message), fault.exit_code);
  }
}

int run_local(LocalCommand& command) {
  // Several ranks would all do the same work, and print it.
  if (launcher_rank() != 0) return kExitDone;
  const int code = command.run();
  flush_results();
  return code;
}

int print(const std::string& text) {
  if (speaks_before_mpi()) std::cout << text;
  flush_results();
  return kExitDone;
}

// Usage errors are found before MPI starts: every rank finds the same, and rank 0 says it. The
// others wait, since a launcher may end all ranks as soon as one has failed.
int fail(const Fault& fault, const std::string& hint) {
  if (speaks_before_mpi()) std::cerr << "archon: error: " << fault.message << '\n' << hint;
  wait_for_lower_ranks(launcher_rank());
  return fault.exit_code;
}

int run_command(const CommandEntry& entry, const std::vector<std::string>& arguments) {
  const auto command = entry.make();
  try {
    OptionSet options;
    command->declare(options);
    options.parse(arguments);
    command->check();
  } catch (const InputError& error) {
    return fail({error.what(), kExitUsage}, fmt::format("see archon {} --help\n", entry.name));
  }
  if (auto* const parallel = dynamic_cast<ParallelCommand*>(command.get()))
    return run_parallel(*parallel);
  return run_local(dynamic_cast<LocalCommand&>(*command));
}

}  // namespace

int run(int argc, char** argv) {
  allow_open_files();
  // A write beyond a limit on file sizes is to fail with a reason, as on a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
  catch_save_signal();
  const std::vector<std::string> arguments(argv + std::min(1, argc), argv + argc);
  try {
    if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h")
      return print(program_help());
    if (arguments[0] == "--version") return print(fmt::format("archon {}\n", version()));
    const std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
    const CommandEntry* entry = nullptr;
    try {
      entry = &find_command(arguments[0]);
    } catch (const InputError& error) {
      return fail({error.what(), kExitUsage}, "see archon --help\n");
    }
    return asks_for_help(rest) ? print(command_help(*entry)) : run_command(*entry, rest);
  } catch (...) {
    return fail(describe_current_exception(), "");
  }
}

}  // namespace archon::cli
