#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace archon {

/// Base of every exception that Archon throws. The message reads: what is wrong, with the value;
/// why; what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  ~Error() override;
};

/// Wrong usage or wrong input (options, files, models, data): exit code 2.
class InputError : public Error {
 public:
  using Error::Error;
  ~InputError() override;
};

/// One that every rank of the job throws, so that all may still communicate.
class SharedInputError : public InputError {
 public:
  using InputError::InputError;
  ~SharedInputError() override;
};

/// Something failed while running (MPI, HDF5, the file system, a bug): exit code 3.
class RuntimeFailure : public Error {
 public:
  using Error::Error;
  ~RuntimeFailure() override;
};

[[noreturn]] void throw_input_error(std::string message);
[[noreturn]] void throw_runtime_failure(std::string message);

}  // namespace archon

/// Always-on check of user input: throws InputError with a fmt-formatted message.
#define ARCHON_VALIDATE(condition, ...)                        \
  do {                                                         \
    if (!(condition)) [[unlikely]]                             \
      ::archon::throw_input_error(::fmt::format(__VA_ARGS__)); \
  } while (false)

/// Always-on check of what the program itself must guarantee or a library must deliver.
#define ARCHON_ENSURE(condition, ...)                              \
  do {                                                             \
    if (!(condition)) [[unlikely]]                                 \
      ::archon::throw_runtime_failure(::fmt::format(__VA_ARGS__)); \
  } while (false)

/// Check of a caller's contract inside hot code: done only in debug builds. Release builds compile
/// the condition, unevaluated, so that it cannot go stale there.
#ifdef NDEBUG
#define ARCHON_EXPECT(condition) ((void)sizeof(!(condition)))
#else
#define ARCHON_EXPECT(condition)                                                \
  do {                                                                          \
    if (!(condition))                                                           \
      ::archon::throw_runtime_failure(                                          \
          ::fmt::format("{}:{}: expected {}", __FILE__, __LINE__, #condition)); \
  } while (false)
#endif
