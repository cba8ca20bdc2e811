#include "archon/data/packing.hpp"

#include <algorithm>
#include <numeric>

#include "archon/base/error.hpp"

namespace archon {
namespace {

constexpr int64_t kPageBytes = int64_t{2} << 20;

std::vector<int64_t> longest_first(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
  return order;
}

// Each sequence goes to the rank with the least to do so far, the lower rank of equals.
std::vector<std::vector<int64_t>> spread(const std::vector<int64_t>& order,
                                         const std::vector<double>& costs, int dp) {
  std::vector<std::vector<int64_t>> ranks(dp);
  std::vector<double> load(dp, 0);
  for (const int64_t entry : order) {
    const auto rank = std::min_element(load.begin(), load.end()) - load.begin();
    ranks[rank].push_back(entry);
    load[rank] += costs[entry];
  }
  return ranks;
}

// First-fit decreasing; `entries` come longest first.
std::vector<std::vector<int64_t>> fill(const std::vector<int64_t>& entries,
                                       const std::vector<int64_t>& lengths, int64_t max_tokens) {
  std::vector<std::vector<int64_t>> bins;
  std::vector<int64_t> room;  // negative in the bin of a sequence above max_tokens
  std::size_t first_open = 0;
  for (const int64_t entry : entries) {
    // Bins at the front that not even the shortest sequence fits are never looked at again.
    while (first_open < room.size() && room[first_open] < lengths[entries.back()]) ++first_open;
    const auto bin = std::find_if(room.begin() + first_open, room.end(),
                                  [&](int64_t left) { return left >= lengths[entry]; }) -
                     room.begin();
    if (bin == static_cast<int64_t>(room.size())) {
      bins.emplace_back();
      room.push_back(max_tokens);
    }
    bins[bin].push_back(entry);
    room[bin] -= lengths[entry];
  }
  // Ascending, so that an unshuffled file is read forwards.
  for (std::vector<int64_t>& bin : bins) std::sort(bin.begin(), bin.end());
  return bins;
}

}  // namespace

MicroBatchPlan plan_micro_batches(const std::vector<int64_t>& lengths,
                                  const std::vector<double>& costs, int64_t max_tokens, int dp) {
  ARCHON_VALIDATE(max_tokens >= 1,
                  "micro-batches of {} tokens hold nothing; allow at least 1 token", max_tokens);
  ARCHON_ENSURE(dp >= 1, "sequences cannot be spread over {} ranks", dp);
  ARCHON_ENSURE(costs.size() == lengths.size(), "{} costs for {} sequences; give one for each",
                costs.size(), lengths.size());
  MicroBatchPlan plan;
  std::size_t micro_batches = 1;
  for (const std::vector<int64_t>& entries : spread(longest_first(lengths), costs, dp)) {
    plan.push_back(fill(entries, lengths, max_tokens));
    micro_batches = std::max(micro_batches, plan.back().size());
  }
  for (auto& bins : plan) bins.resize(micro_batches);
  return plan;
}

int64_t padding_multiple(int64_t hidden_size, int64_t element_size, int64_t pad_limit, int tp,
                         int cp) {
  ARCHON_VALIDATE(pad_limit >= 1, "a pad limit of {} tokens allows no micro-batch; give 1 or more",
                  pad_limit);
  const int64_t page_tokens = std::max<int64_t>(1, kPageBytes / hidden_size / element_size);
  return std::lcm(std::min(page_tokens, pad_limit), static_cast<int64_t>(tp) * cp);
}

int64_t padded_tokens(int64_t tokens, int64_t multiple) {
  return std::max<int64_t>(1, (tokens + multiple - 1) / multiple) * multiple;
}

}  // namespace archon
