#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "archon/io/json_fwd.hpp"

namespace archon {

/// Whether JSON can hold this text: it must be UTF-8.
bool is_utf8(const std::string& text);

/// Parses JSON; InputError with `source`, line and reason when it is not JSON, when an object has
/// the same key twice, or when it is nested more than 100 deep.
Json parse_json(std::string_view text, const std::string& source);

/// Parses a JSON file, like parse_json.
Json read_json_file(const std::string& path);

}  // namespace archon
