#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace archon {

/// Memory for large blocks that come and go in the same pattern again and again, as the tensors of
/// training steps do. What is freed stays with the process, so that the next step finds its pages
/// in place; yet no more than a twentieth beyond the most that were in use at one time is resident.
///
/// A general heap keeps the first promise or the second: freed blocks that do not fit the next
/// request lie idle between used ones, and the heap grows. Here addresses are plentiful: a block
/// that fits no idle one gets new addresses, and idle pages beyond that go back to the system.
///
/// May be used by several threads.
class Arena {
 public:
  /// A block of at least `bytes`, aligned to pages; nullptr when the system has no more.
  void* allocate(std::size_t bytes);
  /// Frees a block of this arena; false when `block` is none.
  bool release(void* block);

  /// Bytes of the blocks in use, and of the freed ones whose pages are kept.
  std::size_t in_use() const;
  std::size_t idle() const;

 private:
  enum class State { used, idle, untouched };  // untouched: its pages are with the system
  struct Block {
    std::size_t bytes;
    State state;
  };
  using Blocks = std::map<char*, Block>;
  using BySize = std::set<std::pair<std::size_t, char*>>;

  BySize& free_blocks(State state) { return state == State::idle ? idle_ : untouched_; }
  void insert_free(char* begin, std::size_t bytes, State state);
  void erase_free(Blocks::iterator block);
  void* take(Blocks::iterator block, std::size_t bytes);
  void give_back_idle(std::size_t bytes);
  bool extend(std::size_t bytes);

  mutable std::mutex mutex_;
  Blocks blocks_;            // by address; covers all that was mapped
  BySize idle_, untouched_;  // the free ones
  std::size_t in_use_ = 0, idle_bytes_ = 0, most_in_use_ = 0;
};

}  // namespace archon
