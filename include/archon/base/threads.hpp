#pragma once

#include <string>

namespace archon {

/// Cores that this process may run on (its affinity mask).
int available_cores();

/// Threads for one rank: max(1, cores this rank may use / ranks that share them).
///
/// Ranks that a launcher bound to disjoint cores share nothing: those that share are the ranks of
/// this host whose affinity mask equals this rank's (MpiEnvironment::ranks_sharing_cores).
int threads_per_rank(int cores, int ranks_sharing_them);

/// "2 cores, shared by 1 rank": where threads_per_rank comes from.
std::string describe_cores(int cores, int ranks_sharing_them);

}  // namespace archon
