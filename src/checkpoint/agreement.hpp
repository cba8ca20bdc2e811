#pragma once

#include <functional>
#include <string>
#include <vector>

#include "archon/comm/communicator.hpp"

namespace archon {

/// Runs `body`; the message of what it throws, empty if it throws nothing.
std::string attempt(const std::function<void()>& body);

/// "rank 3: MESSAGE" of the lowest rank whose `failure` is not empty, the same on every rank; empty
/// if there is none. Collective.
std::string agree_on_failure(const Communicator& group, const std::string& failure);

/// The bytes of each rank, on rank 0; nothing on the others. Collective.
std::vector<std::string> gather_bytes(const Communicator& group, const std::string& bytes);

}  // namespace archon
