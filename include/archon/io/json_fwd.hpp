#pragma once

#include <nlohmann/json_fwd.hpp>

namespace archon {

/// A JSON value; its objects keep their keys' order. "archon/io/json.hpp" has all of it.
using Json = nlohmann::ordered_json;

}  // namespace archon
