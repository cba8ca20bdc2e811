#include "archon/io/json.hpp"

#include <set>
#include <vector>

#include "archon/base/error.hpp"
#include "archon/io/files.hpp"

namespace archon {

namespace {

constexpr int kDeepest = 100;

}  // namespace

bool is_utf8(const std::string& text) {
  try {
    Json(text).dump();
    return true;
  } catch (const Json::type_error&) {
    return false;
  }
}

Json parse_json(std::string_view text, const std::string& source) {
  // The library keeps one of two equal keys and says nothing; which one would be a guess.
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
    // The library copies and writes values by recursion, which must not use up the stack.
    ARCHON_VALIDATE(depth <= kDeepest,
                    "{} is nested more than {} deep, as nothing is that Archon reads; is it the "
                    "right file?",
                    source, kDeepest);
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      ARCHON_VALIDATE(keys.back().insert(key).second, "{}: the key \"{}\" is there twice", source,
                      key);
    }
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const Json::exception& error) {  // also numbers out of range
    // "[json.exception.parse_error.101] parse error at line 1, column 1: ..."
    const std::string_view what = error.what();
    const auto prefix = what.find("] ");
    throw_input_error(fmt::format("{} is not valid JSON: {}", source,
                                  prefix == what.npos ? what : what.substr(prefix + 2)));
  }
}

Json read_json_file(const std::string& path) { return parse_json(read_text_file(path), path); }

}  // namespace archon
