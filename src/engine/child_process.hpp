#pragma once

#include <sys/types.h>

#include <string>

namespace archon {

/// A program behind two pipes. While one lives, writing to a program that has ended is an error to
/// the writer (EPIPE), not a signal, and a signal that ends this process (SIGINT, SIGTERM, SIGHUP)
/// kills the program first. One at a time.
class ChildProcess {
 public:
  /// Starts /bin/sh -c COMMAND in a process group of its own. Its standard error is this process's.
  /// RuntimeFailure when the system refuses.
  explicit ChildProcess(const std::string& command);
  /// Kills what still runs.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// Its standard input, to write to without blocking; -1 once closed.
  int input() const { return input_; }
  /// Its standard output, to read from; -1 once closed.
  int output() const { return output_; }
  void close_input();
  void close_output();

  /// Waits at most so many seconds (below 0: without limit) for its end; whether it has ended. What
  /// it left in the background is killed then.
  bool wait(double seconds);
  /// Kills it with all that it started, if it still runs.
  void kill();
  /// After its end: exit code 0.
  bool succeeded() const { return status_ == 0; }
  /// After its end, in words: "ended with exit code 3", "was killed by signal 9".
  std::string fate() const;

 private:
  /// Sets this process's handling of signals, and puts it back.
  struct Signals {
    Signals();
    ~Signals();
  };
  bool reap();

  Signals signals_;
  int input_ = -1, output_ = -1;
  pid_t process_ = 0;  // 0: ended, and waited for
  int status_ = 0;
};

}  // namespace archon
