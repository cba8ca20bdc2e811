#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace archon {

using Json = nlohmann::ordered_json;

/// Parses JSON; InputError with `source`, line and reason when it is not JSON, or when an object
/// has the same key twice.
Json parse_json(std::string_view text, const std::string& source);

/// Parses a JSON file, like parse_json.
Json read_json_file(const std::string& path);

}  // namespace archon
