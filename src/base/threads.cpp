#include "archon/base/threads.hpp"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <thread>

namespace archon {

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

int threads_per_rank(int cores, int ranks_sharing_them) {
  return std::max(1, cores / std::max(1, ranks_sharing_them));
}

std::string describe_cores(int cores, int ranks_sharing_them) {
  return fmt::format("{} core{}, shared by {} rank{}", cores, cores == 1 ? "" : "s",
                     ranks_sharing_them, ranks_sharing_them == 1 ? "" : "s");
}

}  // namespace archon
