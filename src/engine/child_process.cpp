#include "child_process.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>
#include <utility>

#include "archon/base/error.hpp"

namespace archon {
namespace {

void close_descriptor(int& descriptor) {
  if (descriptor >= 0) ::close(std::exchange(descriptor, -1));
}

/// Two ends, closed when they leave scope.
struct Pipe {
  Pipe() {
    ARCHON_ENSURE(::pipe2(ends.data(), O_CLOEXEC) == 0, "cannot make a pipe: {}",
                  std::strerror(errno));
  }
  ~Pipe() {
    for (int& end : ends) close_descriptor(end);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  std::array<int, 2> ends{-1, -1};  ///< to read from, to write to
};

/// What the program begins with: the pipes, a process group of its own, and signals as usual,
/// whatever this process ignores or blocks.
class SpawnSettings {
 public:
  SpawnSettings(const Pipe& input, const Pipe& output) {
    ::posix_spawn_file_actions_init(&files_);
    ::posix_spawn_file_actions_adddup2(&files_, input.ends[0], STDIN_FILENO);
    ::posix_spawn_file_actions_adddup2(&files_, output.ends[1], STDOUT_FILENO);
    ::posix_spawnattr_init(&attributes_);
    sigset_t none, usual;
    ::sigemptyset(&none);
    ::sigemptyset(&usual);
    ::sigaddset(&usual, SIGPIPE);
    ::sigaddset(&usual, SIGXFSZ);
    ::posix_spawnattr_setsigmask(&attributes_, &none);
    ::posix_spawnattr_setsigdefault(&attributes_, &usual);
    ::posix_spawnattr_setpgroup(&attributes_, 0);
    ::posix_spawnattr_setflags(
        &attributes_, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnSettings() {
    ::posix_spawn_file_actions_destroy(&files_);
    ::posix_spawnattr_destroy(&attributes_);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;

  pid_t start(std::string command) const {
    std::string shell = "/bin/sh", option = "-c";
    const std::array<char*, 4> words = {shell.data(), option.data(), command.data(), nullptr};
    pid_t process = 0;
    const int error =
        ::posix_spawn(&process, shell.c_str(), &files_, &attributes_, words.data(), environ);
    ARCHON_ENSURE(error == 0, "cannot start \"{}\": {}", command, std::strerror(error));
    return process;
  }

 private:
  posix_spawn_file_actions_t files_;
  posix_spawnattr_t attributes_;
};

}  // namespace

ChildProcess::ChildProcess(const std::string& command) {
  Pipe input, output;
  process_ = SpawnSettings(input, output).start(command);
  input_ = std::exchange(input.ends[1], -1);
  output_ = std::exchange(output.ends[0], -1);
  ::fcntl(input_, F_SETFL, O_NONBLOCK);
  sigpipe_handler_ = std::signal(SIGPIPE, SIG_IGN);
}

ChildProcess::~ChildProcess() {
  kill();
  close_input();
  close_output();
  std::signal(SIGPIPE, sigpipe_handler_);
}

void ChildProcess::close_input() { close_descriptor(input_); }
void ChildProcess::close_output() { close_descriptor(output_); }

bool ChildProcess::wait(double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  while (process_ != 0) {
    if (::waitpid(process_, &status_, WNOHANG) == process_) {
      process_ = 0;
    } else if (seconds >= 0 &&
               std::chrono::duration<double>(Clock::now() - begin).count() > seconds) {
      return false;
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  return true;
}

void ChildProcess::kill() {
  if (process_ == 0) return;
  ::kill(-process_, SIGKILL);
  wait(-1);
}

std::string ChildProcess::fate() const {
  return WIFSIGNALED(status_) ? fmt::format("was killed by signal {}", WTERMSIG(status_))
                              : fmt::format("ended with exit code {}", WEXITSTATUS(status_));
}

}  // namespace archon
