// Memory that stays with the process, and little more of it than was in use at one time.
#include "archon/base/arena.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <random>
#include <thread>
#include <vector>


using archon::Arena;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

/// Bytes of a block whose pages are in memory.
std::size_t resident(void* block, std::size_t bytes) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages(bytes / page);
  BOOST_REQUIRE(::mincore(block, bytes, pages.data()) == 0);
  std::size_t count = 0;
  for (const unsigned char each : pages) count += each & 1;
  return count * page;
}

}  // namespace

BOOST_AUTO_TEST_CASE(freed_pages_are_found_again) {
  Arena arena;
  void* const first = arena.allocate(8 * kMiB);
  std::memset(first, 1, 8 * kMiB);
  BOOST_TEST(arena.release(first));
  BOOST_TEST(arena.idle() == 8 * kMiB);
  void* const second = arena.allocate(8 * kMiB);
  BOOST_TEST(second == first);
  BOOST_TEST(resident(second, 8 * kMiB) == 8 * kMiB);
  BOOST_TEST(arena.release(second));
}

BOOST_AUTO_TEST_CASE(gaps_that_fit_nothing_go_back_to_the_system) {
  Arena arena;
  std::vector<void*> blocks;
  for (int i = 0; i < 16; ++i) {
    blocks.push_back(arena.allocate(kMiB));
    std::memset(blocks.back(), 1, kMiB);
  }
  // Every other one: eight gaps of 1 MiB, none of which holds 4 MiB.
  for (int i = 0; i < 16; i += 2) BOOST_TEST(arena.release(blocks[i]));
  void* const large = arena.allocate(4 * kMiB);
  BOOST_TEST(arena.in_use() == 12 * kMiB);
  constexpr std::size_t kLimit = 16 * kMiB + 16 * kMiB / 20;  // a twentieth beyond the most in use
  BOOST_TEST(arena.in_use() + arena.idle() <= kLimit);
  BOOST_TEST(arena.in_use() + arena.idle() > kLimit - static_cast<std::size_t>(::getpagesize()));
  BOOST_TEST(resident(large, 4 * kMiB) == 0);
  for (int i = 1; i < 16; i += 2) BOOST_TEST(static_cast<char*>(blocks[i])[kMiB - 1] == 1);
}

// The next step wants them again.
BOOST_AUTO_TEST_CASE(small_gaps_keep_their_pages) {
  Arena arena;
  std::vector<void*> blocks;
  for (int i = 0; i < 20; ++i) blocks.push_back(arena.allocate(kMiB));
  std::memset(blocks[3], 1, kMiB);
  BOOST_TEST(arena.release(blocks[3]));
  arena.allocate(kMiB + 1);
  BOOST_TEST(arena.idle() == kMiB);
  BOOST_TEST(resident(blocks[3], kMiB) == kMiB);
  BOOST_TEST(arena.allocate(kMiB) == blocks[3]);
}

BOOST_AUTO_TEST_CASE(what_is_no_block_of_it_is_refused) {
  Arena arena;
  int elsewhere = 0;
  BOOST_TEST(!arena.release(&elsewhere));
  void* const block = arena.allocate(kMiB);
  BOOST_TEST(!arena.release(static_cast<char*>(block) + 4096));
  BOOST_TEST(arena.release(block));
  BOOST_TEST(!arena.release(block));
}

BOOST_AUTO_TEST_CASE(blocks_never_overlap_and_keep_what_is_written) {
  Arena arena;
  const auto churn = [&arena](unsigned seed) {
    std::mt19937 random(seed);
    std::vector<std::pair<unsigned char*, std::size_t>> held;
    for (int i = 0; i < 2000; ++i) {
      if (held.size() < 12 && random() % 3 != 0) {
        const std::size_t bytes = 4096 * (1 + random() % 300);
        auto* const block = static_cast<unsigned char*>(arena.allocate(bytes));
        block[0] = block[bytes - 1] = static_cast<unsigned char>(seed + bytes / 4096);
        held.emplace_back(block, bytes);
      } else if (!held.empty()) {
        std::swap(held[random() % held.size()], held.back());
        const auto [block, bytes] = held.back();
        const auto mark = static_cast<unsigned char>(seed + bytes / 4096);
        if (block[0] != mark || block[bytes - 1] != mark || !arena.release(block)) return false;
        held.pop_back();
      }
    }
    for (const auto& [block, bytes] : held) arena.release(block);
    return true;
  };
  bool one = false, other = false;
  std::thread thread([&] { other = churn(7); });
  one = churn(100);
  thread.join();
  BOOST_TEST(one);
  BOOST_TEST(other);
  BOOST_TEST(arena.in_use() == 0U);
}
