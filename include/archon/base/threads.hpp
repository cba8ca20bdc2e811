#pragma once

namespace archon {

/// Cores that this process may run on (its affinity mask).
int available_cores();

/// Threads for one rank: max(1, cores this rank may use / ranks that share them).
///
/// `local_ranks` are the ranks on this host. Ranks that a launcher bound to disjoint cores share
/// nothing; pass the number of ranks whose affinity mask equals this rank's.
int threads_per_rank(int cores, int ranks_sharing_them);

}  // namespace archon
