#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <atomic>
#include <cstdint>

namespace archon {

/// Calls body(task, scratch) for every task in [0, tasks), in turn from several threads; each has
/// so many floats of scratch space. Where no two tasks write to one place, results do not depend on
/// who takes which.
template <class Body>
void run_tasks(int64_t tasks, int64_t scratch_floats, const Body& body) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    const at::Tensor scratch = at::empty({scratch_floats}, at::kFloat);
    for (int64_t i; (i = next.fetch_add(1)) < tasks;) body(i, scratch.data_ptr<float>());
  });
}

}  // namespace archon
