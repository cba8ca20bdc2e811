#pragma once

#include <functional>
#include <utility>

namespace archon {

/// A started operation: `wait` finishes it. Move-only; dropped or replaced, it is waited for.
class Work {
 public:
  Work() = default;
  explicit Work(std::function<void()> finish) : finish_(std::move(finish)) {}
  Work(Work&& other) noexcept : finish_(std::exchange(other.finish_, nullptr)) {}
  Work& operator=(Work&& other);
  ~Work();

  /// Returns when the operation is complete on this rank. Calling it again does nothing.
  void wait();
  bool pending() const { return static_cast<bool>(finish_); }

 private:
  std::function<void()> finish_;
};

}  // namespace archon
