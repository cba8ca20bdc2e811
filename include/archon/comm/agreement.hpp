#pragma once

#include <functional>
#include <string>
#include <vector>

#include "archon/comm/communicator.hpp"

/// What some ranks find wrong, and all must know, lest they wait for those in a collective.
namespace archon {

/// Runs `check` on rank 0 only. Where it throws InputError, all ranks throw the same as
/// SharedInputError, so that the job ends with one message; other exceptions stay rank 0's own.
/// Collective.
void check_on_rank_zero(const Communicator& group, const std::function<void()>& check);

/// Runs `check`, which must not communicate, on every rank. Where it throws InputError on some, all
/// throw SharedInputError with the message of the lowest of these, and its number if it is not 0.
/// Collective.
void check_on_every_rank(const Communicator& group, const std::function<void()>& check);

/// Runs `body`; the message of what it throws, empty if it throws nothing.
std::string attempt(const std::function<void()>& body);

/// "rank 3: MESSAGE" of the lowest rank whose `failure` is not empty, the same on every rank; empty
/// if there is none. Collective.
std::string agree_on_failure(const Communicator& group, const std::string& failure);

/// The bytes of each rank, on rank 0; nothing on the others. Collective.
std::vector<std::string> gather_bytes(const Communicator& group, const std::string& bytes);

}  // namespace archon
