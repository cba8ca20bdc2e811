#include "archon/base/open_line.hpp"

#include <atomic>
#include <cstdio>

namespace archon {
namespace {

std::atomic<bool> line_open{false};

}  // namespace

void leave_line_open() { line_open = true; }

void end_open_line() {
  if (line_open.exchange(false)) std::fputc('\n', stderr);
}

}  // namespace archon
