#include "values.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "archon/io/json.hpp"

namespace archon::cli {
namespace {

struct Unit {
  const char* name;
  std::int64_t bytes;
};
constexpr std::array kUnits = {Unit{"TiB", std::int64_t{1} << 40},
                               Unit{"GiB", std::int64_t{1} << 30},
                               Unit{"MiB", std::int64_t{1} << 20},
                               Unit{"KiB", std::int64_t{1} << 10},
                               Unit{"TB", std::int64_t{1000000000000}},
                               Unit{"GB", std::int64_t{1000000000}},
                               Unit{"MB", std::int64_t{1000000}},
                               Unit{"KB", std::int64_t{1000}},
                               Unit{"B", std::int64_t{1}},
                               Unit{"", std::int64_t{1}}};

std::string show_bytes(std::int64_t bytes) {
  const auto unit = std::find_if(kUnits.begin(), kUnits.end(),
                                 [&](const Unit& each) { return bytes % each.bytes == 0; });
  return fmt::format("{}{}", bytes / unit->bytes, unit->name);
}

bool parse_bytes(const std::string& given, std::int64_t& target) {
  const auto digits = std::min(given.find_first_not_of("0123456789"), given.size());
  const std::string name = given.substr(digits);
  const auto unit = std::find_if(kUnits.begin(), kUnits.end(),
                                 [&](const Unit& each) { return name == each.name; });
  std::int64_t count = 0;
  if (unit == kUnits.end() || !parse_integer(given.substr(0, digits), count) || count < 1 ||
      count > std::numeric_limits<std::int64_t>::max() / unit->bytes)
    return false;
  target = count * unit->bytes;
  return true;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find(separator, begin)) != std::string::npos; begin = end + 1)
    parts.push_back(text.substr(begin, end - begin));
  parts.push_back(text.substr(begin));
  return parts;
}

/// A run writes its paths as JSON, which cannot hold others: it would end at its first checkpoint.
void check_text(const std::string& given) {
  ARCHON_VALIDATE(!given.empty(), "must not be empty");
  ARCHON_VALIDATE(is_utf8(given), "must be UTF-8; rename it, or make a link to it and name that");
}

}  // namespace

std::string join_choices(const std::vector<std::string>& names) {
  if (names.size() == 1) return names.front();
  return fmt::format("{} or {}", fmt::join(names.begin(), names.end() - 1, ", "), names.back());
}

Value text(std::string& target, std::string placeholder) {
  const auto set = [&target](const std::string& given) {
    check_text(given);
    target = given;
  };
  return {.placeholder = std::move(placeholder), .initial = target, .set = set};
}

Value texts(std::vector<std::string>& target, std::string placeholder) {
  const auto set = [&target](const std::string& given) {
    check_text(given);
    target.push_back(given);
  };
  return {.placeholder = std::move(placeholder), .initial = "", .set = set, .repeatable = true};
}

Value on_off(bool& target) { return choice<bool>(target, {{"on", true}, {"off", false}}); }

Value flag(bool& target) {
  Value value = on_off(target);
  value.initial.clear();
  value.is_switch = true;
  return value;
}

Value number(double& target, NumberRange range, std::string placeholder) {
  const auto set = [&target, range](const std::string& given) {
    double value = 0;
    const char* const end = given.data() + given.size();
    const auto [rest, error] = std::from_chars(given.data(), end, value);
    const bool parsed = error == std::errc() && rest == end && std::isfinite(value);
    const bool inside = range.open_low ? value > range.low : value >= range.low;
    const bool below = range.open_high ? value < range.high : value <= range.high;
    ARCHON_VALIDATE(parsed && inside && below, "must be {}", range.words);
    target = value;
  };
  const bool given = range.open_low ? target > range.low : target >= range.low;
  return {.placeholder = std::move(placeholder),
          .initial = given ? fmt::format("{:g}", target) : "",
          .set = set};
}

Value mesh_axis(int& target) {
  const auto set = [&target](const std::string& given) {
    int value = 0;
    ARCHON_VALIDATE(
        parse_integer(given, value) && (value >= 1 || value == -1),
        "must be a whole number, 1 or larger, or -1 (computed from the number of ranks)");
    target = value;
  };
  return {.placeholder = "N", .initial = fmt::to_string(target), .set = set};
}

Value bytes(std::int64_t& target) {
  const auto set = [&target](const std::string& given) {
    ARCHON_VALIDATE(parse_bytes(given, target),
                    "must be a size such as 500MB, 5GB or 5GiB, 1 byte or larger");
  };
  return {.placeholder = "SIZE", .initial = target == 0 ? "" : show_bytes(target), .set = set};
}

Value activation_checkpointing(ActivationCheckpointing& target) {
  using Mode = ActivationCheckpointing::Mode;
  const auto set = [&target](const std::string& given) {
    const std::string prefix = "every-";
    if (given.starts_with(prefix)) {
      int64_t every = 0;
      if (!parse_integer(given.substr(prefix.size()), every) || every < 1)
        throw_input_error("must name a whole number from 1 after \"every-\", as in every-2");
      target = {Mode::every, every};
    } else if (given == "none" || given == "full" || given == "selective") {
      target = {given == "none" ? Mode::none : given == "full" ? Mode::full : Mode::selective};
    } else {
      throw_input_error("must be none, full, every-K or selective");
    }
  };
  return {.placeholder = "none|full|every-K|selective", .initial = "none", .set = set};
}

Value step_range(std::int64_t& first, std::int64_t& last) {
  const auto set = [&first, &last](const std::string& given) {
    const auto ends = split(given, '-');
    std::int64_t a = 0, b = 0;
    const bool parsed =
        ends.size() <= 2 && parse_integer(ends.front(), a) && parse_integer(ends.back(), b);
    ARCHON_VALIDATE(parsed && a >= 1 && b >= a,
                    "must be one step, or FIRST-LAST such as 1-5, counted from 1");
    first = a;
    last = b;
  };
  return {.placeholder = "FIRST-LAST",
          .initial = first == last ? fmt::to_string(first) : fmt::format("{}-{}", first, last),
          .set = set};
}

Value token_list(std::optional<std::vector<int64_t>>& target) {
  const auto set = [&target](const std::string& given) {
    std::vector<int64_t> tokens;
    for (const std::string& part : given == "none" ? std::vector<std::string>() : split(given, ','))
      ARCHON_VALIDATE(parse_integer(part, tokens.emplace_back()) && tokens.back() >= 0,
                      "must be token ids with commas between them such as 2 or 1,2, or none");
    target = tokens;
  };
  return {.placeholder = "LIST", .initial = "", .set = set};
}

Value subset(std::vector<std::pair<std::string, bool*>> members) {
  std::vector<std::string> names, chosen;
  for (const auto& [name, on] : members) {
    names.push_back(name);
    if (*on) chosen.push_back(name);
  }
  const auto set = [members, names](const std::string& given) {
    const auto wanted = split(given, ',');
    for (const std::string& each : wanted)
      ARCHON_VALIDATE(std::count(names.begin(), names.end(), each) == 1,
                      "must be one or more of {}, with commas between them",
                      fmt::join(names, ", "));
    for (const auto& [name, on] : members) *on = std::count(wanted.begin(), wanted.end(), name) > 0;
  };
  return {.placeholder = "LIST", .initial = fmt::format("{}", fmt::join(chosen, ",")), .set = set};
}

Value compute_dtype(at::ScalarType& target) {
  return choice<at::ScalarType>(target, {{"float32", at::kFloat}, {"bfloat16", at::kBFloat16}});
}

}  // namespace archon::cli
