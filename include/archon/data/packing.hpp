#pragma once

#include <cstdint>
#include <vector>

namespace archon {

/// Which sequences go into which micro-batch of which dp rank: [dp rank][micro-batch][entry];
/// entries are positions in the `lengths` given to plan_micro_batches. All dp ranks have the same
/// number of micro-batches, at least one; some may be empty.
using MicroBatchPlan = std::vector<std::vector<std::vector<int64_t>>>;

/// Spreads sequences over dp ranks (longest first, to the rank with the least `costs` so far), then
/// over micro-batches of at most `max_tokens` (first-fit decreasing). A longer sequence gets a
/// micro-batch of its own. `costs` has one number a sequence, in any unit: what its computation
/// takes, which grows faster than its length. Depends on the arguments alone, so all ranks agree.
MicroBatchPlan plan_micro_batches(const std::vector<int64_t>& lengths,
                                  const std::vector<double>& costs, int64_t max_tokens, int dp);

/// lcm(page tokens, tp·cp): what each micro-batch is padded to a multiple of. Page tokens =
/// max(1, 2 MiB / hidden_size / element_size), at most pad_limit.
int64_t padding_multiple(int64_t hidden_size, int64_t element_size, int64_t pad_limit, int tp,
                         int cp);

/// `tokens` padded to a multiple of `multiple`; at least one multiple.
int64_t padded_tokens(int64_t tokens, int64_t multiple);

}  // namespace archon
