#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace archon {

using Json = nlohmann::ordered_json;

/// Parses a JSON file; InputError with file, line and reason when it is not JSON.
Json read_json_file(const std::string& path);

}  // namespace archon
