#include "archon/comm/rank_zero.hpp"

#include "archon/base/error.hpp"

namespace archon {

void check_on_rank_zero(const Communicator& group, const std::function<void()>& check) {
  std::string problem;
  if (group.rank() == 0) try {
      check();
    } catch (const InputError& error) {
      problem = error.what();
    }
  problem = group.broadcast(problem, 0);
  if (!problem.empty()) throw InputError(problem);
}

}  // namespace archon
