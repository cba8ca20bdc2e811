#include "archon/base/arena.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>

namespace archon {
namespace {

// Addresses, not memory.
constexpr std::size_t kLeastMapping = std::size_t{4} << 30;

// One part in so many may be resident beyond the most in use. Without it, blocks that fit no idle
// one have tens of thousands of pages a step given back and faulted in: a twentieth of its time.
constexpr std::size_t kSlack = 20;

std::size_t whole_pages(std::size_t bytes) {
  static const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

}  // namespace

void* Arena::allocate(std::size_t bytes) {
  bytes = whole_pages(std::max<std::size_t>(bytes, 1));
  const std::scoped_lock lock(mutex_);
  BySize* from = &idle_;
  auto found = idle_.lower_bound({bytes, nullptr});
  if (found == idle_.end()) {
    from = &untouched_;
    if (untouched_.lower_bound({bytes, nullptr}) == untouched_.end() && !extend(bytes))
      return nullptr;
    const std::size_t most = std::max(most_in_use_, in_use_ + bytes);
    const std::size_t limit = most + most / kSlack;
    const std::size_t resident = in_use_ + idle_bytes_ + bytes;
    if (resident > limit) give_back_idle(resident - limit);
    found = untouched_.lower_bound({bytes, nullptr});
  }
  if (found == from->end()) return nullptr;
  void* const block = take(blocks_.find(found->second), bytes);
  in_use_ += bytes;
  most_in_use_ = std::max(most_in_use_, in_use_);
  return block;
}

bool Arena::release(void* block) {
  const std::scoped_lock lock(mutex_);
  const auto found = blocks_.find(static_cast<char*>(block));
  if (found == blocks_.end() || found->second.state != State::used) return false;
  const std::size_t bytes = found->second.bytes;
  blocks_.erase(found);
  in_use_ -= bytes;
  insert_free(static_cast<char*>(block), bytes, State::idle);
  return true;
}

std::size_t Arena::in_use() const {
  const std::scoped_lock lock(mutex_);
  return in_use_;
}

std::size_t Arena::idle() const {
  const std::scoped_lock lock(mutex_);
  return idle_bytes_;
}

/// Merges with free neighbours of the same kind.
void Arena::insert_free(char* begin, std::size_t bytes, State state) {
  if (state == State::idle) idle_bytes_ += bytes;
  auto next = blocks_.lower_bound(begin);
  if (next != blocks_.end() && next->first == begin + bytes && next->second.state == state) {
    bytes += next->second.bytes;
    free_blocks(state).erase({next->second.bytes, next->first});
    next = blocks_.erase(next);
  }
  if (next != blocks_.begin()) {
    const auto before = std::prev(next);
    if (before->second.state == state && before->first + before->second.bytes == begin) {
      free_blocks(state).erase({before->second.bytes, before->first});
      before->second.bytes += bytes;
      free_blocks(state).insert({before->second.bytes, before->first});
      return;
    }
  }
  blocks_.emplace_hint(next, begin, Block{bytes, state});
  free_blocks(state).insert({bytes, begin});
}

void Arena::erase_free(Blocks::iterator block) {
  const auto [bytes, state] = block->second;
  if (state == State::idle) idle_bytes_ -= bytes;
  free_blocks(state).erase({bytes, block->first});
  blocks_.erase(block);
}

/// The first `bytes` of a free block become a used one.
void* Arena::take(Blocks::iterator block, std::size_t bytes) {
  char* const begin = block->first;
  const auto [had, state] = block->second;
  erase_free(block);
  blocks_.emplace(begin, Block{bytes, State::used});
  if (had > bytes) insert_free(begin + bytes, had - bytes, state);
  return begin;
}

/// At least so many idle bytes, if there are as many; from the ends of the largest blocks.
void Arena::give_back_idle(std::size_t bytes) {
  while (bytes > 0 && !idle_.empty()) {
    const auto [size, begin] = *idle_.rbegin();
    const std::size_t count = std::min(size, whole_pages(bytes));
    char* const from = begin + (size - count);
    erase_free(blocks_.find(begin));
    if (size > count) insert_free(begin, size - count, State::idle);
    ::madvise(from, count, MADV_DONTNEED);
    insert_free(from, count, State::untouched);
    bytes -= std::min(bytes, count);
  }
}

bool Arena::extend(std::size_t bytes) {
  bytes = std::max(bytes, kLeastMapping);
  void* const mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return false;
  insert_free(static_cast<char*>(mapped), bytes, State::untouched);
  return true;
}

}  // namespace archon
