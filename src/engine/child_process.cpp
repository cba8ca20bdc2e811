#include "child_process.hpp"

#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>
#include <utility>

#include "archon/base/blocked_signals.hpp"
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

// What a signal handler must know of the program that lives; below 0 while it is being started.
std::atomic<pid_t> living{0};
static_assert(std::atomic<pid_t>::is_always_lock_free);

constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGCHLD};
std::array<struct sigaction, kSignals.size()> before;

void restore_signals() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &before[i], nullptr);
}

/// A terminal or a launcher does not reach the program, which is in a process group of its own.
extern "C" void end_with_program(int signal) {
  pid_t program = living;
  // On the thread that starts it the signal waits; on any other it waits for that thread.
  for (; program < 0; program = living) ::sched_yield();
  if (program > 0) ::kill(-program, SIGKILL);
  restore_signals();
  ::raise(signal);
}

/// From before a program is started until it is known whom to kill: a program can run, and a signal
/// come, before posix_spawn has returned.
class Starting {
 public:
  Starting() { living = -1; }
  ~Starting() {
    if (living < 0) living = 0;
  }
  Starting(const Starting&) = delete;
  Starting& operator=(const Starting&) = delete;

 private:
  const BlockedSignals blocked_;  // until after `living` is set
};

/// What handles a signal while a program lives, and `usual` handles otherwise.
sighandler_t handler_of(int signal, const struct sigaction& usual) {
  if (signal == SIGPIPE) return SIG_IGN;
  if (signal == SIGCHLD) return SIG_DFL;  // a program whose end is ignored has no exit code
  return usual.sa_handler == SIG_IGN ? SIG_IGN : end_with_program;  // ignored: as under nohup
}

}  // namespace

ChildProcess::Signals::Signals() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], nullptr, &before[i]);
    struct sigaction action = {};
    action.sa_handler = handler_of(kSignals[i], before[i]);
    ::sigaction(kSignals[i], &action, nullptr);
  }
}

ChildProcess::Signals::~Signals() { restore_signals(); }

ChildProcess::ChildProcess(const std::string& command) {
  Pipe input, output;
  {
    const Starting starting;
    living = process_ = SpawnSettings(input, output).start(command);
  }
  input_ = std::exchange(input.ends[1], -1);
  output_ = std::exchange(output.ends[0], -1);
  ::fcntl(input_, F_SETFL, O_NONBLOCK);
}

ChildProcess::~ChildProcess() {
  kill();
  close_input();
  close_output();
}

void ChildProcess::close_input() { close_descriptor(input_); }
void ChildProcess::close_output() { close_descriptor(output_); }

bool ChildProcess::wait(double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  while (!reap()) {
    if (seconds >= 0 && std::chrono::duration<double>(Clock::now() - begin).count() > seconds)
      return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

/// Whether it has ended; takes note of that, and kills what it left in its group. Before waitpid
/// no other process can have been given the group's number.
bool ChildProcess::reap() {
  if (process_ == 0) return true;
  siginfo_t end = {};
  const int result =
      ::waitid(P_PID, static_cast<id_t>(process_), &end, WEXITED | WNOHANG | WNOWAIT);
  // A failure means that there is nothing to wait for.
  if (result == 0 && end.si_pid == 0) return false;
  ::kill(-process_, SIGKILL);
  living = 0;
  ::waitpid(process_, &status_, 0);
  process_ = 0;
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
