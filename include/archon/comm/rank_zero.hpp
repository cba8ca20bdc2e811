#pragma once

#include <functional>

#include "archon/comm/communicator.hpp"

namespace archon {

/// Runs `check` on rank 0 only. Where it throws InputError, all ranks throw the same, so that the
/// job ends with one message; other exceptions stay rank 0's own. Collective.
void check_on_rank_zero(const Communicator& group, const std::function<void()>& check);

}  // namespace archon
