#pragma once

#include <ATen/Parallel.h>

#include <cstdint>

namespace archon::optim {

/// Fewer elements than this are not worth another thread.
inline constexpr int64_t kElementsPerThread = 16384;

/// Calls body(begin, end) on ranges that cover [0, elements), from several threads. Bodies work
/// element by element, so results do not depend on the ranges.
template <class Body>
void for_ranges(int64_t elements, const Body& body) {
  at::parallel_for(0, elements, kElementsPerThread, body);
}

}  // namespace archon::optim
