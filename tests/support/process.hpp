#pragma once

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/temporary_folder.hpp"

extern char** environ;

namespace archon::test {

/// How a program ended. `exit_code` is 128 + signal for one that was killed.
struct ProcessResult {
  int exit_code = -1;
  std::string out;
  std::string err;
  double seconds = 0;
};

/// The environment of this test without what a launcher put there (the test itself runs under
/// mpiexec) and without Archon's own variables, but with what CTest sets for launchers; `extra` is
/// added.
inline std::vector<std::string> child_environment(const std::map<std::string, std::string>& extra) {
  const auto dropped = [](const std::string& entry) {
    for (const char* prefix : {"OMPI_ALLOW_", "OMPI_MCA_hwloc_base_binding_policy="})
      if (entry.rfind(prefix, 0) == 0) return false;
    for (const char* prefix : {"OMPI_", "PMIX_", "PMI_", "ORTE_", "PRTE_", "SLURM_", "ARCHON_"})
      if (entry.rfind(prefix, 0) == 0) return true;
    return false;
  };
  std::vector<std::string> entries;
  for (char** entry = environ; *entry != nullptr; ++entry)
    if (!dropped(*entry)) entries.emplace_back(*entry);
  for (const auto& [name, value] : extra) entries.push_back(name + "=" + value);
  return entries;
}

inline std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

/// Runs a program (found through PATH) to its end; kills it, and its children, after `limit`.
inline ProcessResult run_process(std::vector<std::string> command,
                                 const std::map<std::string, std::string>& extra = {},
                                 std::chrono::seconds limit = std::chrono::seconds(60)) {
  const TemporaryFolder folder;
  const std::string out = folder / "out", err = folder / "err";
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, out.c_str(), O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addopen(&files, STDERR_FILENO, err.c_str(), O_WRONLY | O_CREAT, 0600);
  // A process group of its own, so that a launcher's ranks can be killed with it; and no signal
  // blocked (a Watchdog blocks SIGTERM in this process).
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);

  auto environment = child_environment(extra);
  pid_t child = 0;
  const auto begin = std::chrono::steady_clock::now();
  const int code = posix_spawnp(&child, command[0].c_str(), &files, &attributes,
                                pointers(command).data(), pointers(environment).data());
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  if (code != 0) throw std::runtime_error("cannot start " + command[0]);

  int status = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() - begin > limit) ::kill(-child, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_bytes(out),
          read_bytes(err), seconds.count()};
}

inline std::string archon_program() {
  return std::string(std::getenv("ARCHON_TEST_BINARY_DIR")) + "/bin/archon";
}

/// Runs archon by itself.
inline ProcessResult run_archon(std::vector<std::string> arguments,
                                const std::map<std::string, std::string>& environment = {}) {
  arguments.insert(arguments.begin(), archon_program());
  return run_process(std::move(arguments), environment);
}

/// Runs archon on several ranks; ARCHON_TEST_MPIEXEC is a definition of the test target.
#ifdef ARCHON_TEST_MPIEXEC
inline ProcessResult run_archon_ranks(int ranks, const std::vector<std::string>& arguments,
                                      const std::map<std::string, std::string>& environment = {}) {
  std::vector<std::string> command = {ARCHON_TEST_MPIEXEC, "--oversubscribe", "-n",
                                      std::to_string(ranks), archon_program()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return run_process(std::move(command), environment);
}
#endif

}  // namespace archon::test
