#include "archon/comm/agreement.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <fmt/format.h>

#include <exception>

#include "archon/base/error.hpp"

namespace archon {
namespace {

/// The message of the InputError that `check` throws, empty if it throws none.
std::string input_error_of(const std::function<void()>& check) {
  try {
    check();
    return {};
  } catch (const InputError& error) {
    return error.what();
  }
}

void throw_shared(const std::string& problem) {
  if (!problem.empty()) throw SharedInputError(problem);
}

}  // namespace

void check_on_rank_zero(const Communicator& group, const std::function<void()>& check) {
  throw_shared(group.broadcast(group.rank() == 0 ? input_error_of(check) : "", 0));
}

void check_on_every_rank(const Communicator& group, const std::function<void()>& check) {
  const std::string problem = agree_on_failure(group, input_error_of(check));
  // What rank 0 finds all will have found.
  const std::string first = "rank 0: ";
  throw_shared(problem.starts_with(first) ? problem.substr(first.size()) : problem);
}

std::string attempt(const std::function<void()>& body) {
  try {
    body();
    return {};
  } catch (const std::exception& error) {
    return error.what();
  }
}

std::string agree_on_failure(const Communicator& group, const std::string& failure) {
  const int64_t mine = failure.empty() ? group.size() : group.rank();
  const auto lowest = static_cast<int>(group.all_reduce(mine, ReduceOp::min));
  if (lowest == group.size()) return {};
  return fmt::format("rank {}: {}", lowest, group.broadcast(failure, lowest));
}

std::vector<std::string> gather_bytes(const Communicator& group, const std::string& bytes) {
  const auto mine = static_cast<int64_t>(bytes.size());
  const at::Tensor sizes = at::empty({group.size()}, at::kLong);
  group.all_gather(sizes, at::full({1}, mine, at::kLong));
  const bool receives = group.rank() == 0;
  std::vector<int64_t> sent(group.size(), 0), received(group.size(), 0);
  sent[0] = mine;
  int64_t total = 0;
  for (int rank = 0; receives && rank < group.size(); ++rank)
    total += received[rank] = sizes.const_data_ptr<int64_t>()[rank];
  const at::Tensor all = at::empty({total}, at::kByte);
  group.all_to_all(all, at::from_blob(const_cast<char*>(bytes.data()), {mine}, at::kByte), received,
                   sent);
  std::vector<std::string> result;
  const auto* next = reinterpret_cast<const char*>(all.const_data_ptr<uint8_t>());
  for (int rank = 0; receives && rank < group.size(); next += received[rank++])
    result.emplace_back(next, static_cast<std::size_t>(received[rank]));
  return result;
}

}  // namespace archon
