#pragma once

#include <ATen/core/ScalarType.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "archon/base/error.hpp"
#include "archon/model/model.hpp"

namespace archon::cli {

/// How the text of an option becomes a value, and how the value reads in the help.
///
/// The makers below bind a variable. Its value at that moment is the option's default, so that
/// defaults stand in one place, the options' structs.
struct Value {
  std::string placeholder;                        ///< "N", "FILE"; what the help calls the value
  std::string initial;                            ///< default as the help shows it, or ""
  std::function<void(const std::string&)> set{};  ///< InputError "must be ..." when malformed
  bool repeatable = false;                        ///< may be given several times
  bool is_switch = false;                         ///< needs no value: --json
};

/// Any UTF-8 text but the empty one.
Value text(std::string& target, std::string placeholder);
/// Given several times, each adds one text.
Value texts(std::vector<std::string>& target, std::string placeholder);
/// "on" or "off".
Value on_off(bool& target);
/// Off unless named.
Value flag(bool& target);

/// Which numbers are allowed, and how messages say it.
struct NumberRange {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool open_low = false;   ///< low itself is not allowed
  bool open_high = false;  ///< high itself is not allowed
  const char* words = "a number";
};
inline constexpr NumberRange kPositive{.low = 0, .open_low = true, .words = "a number above 0"};
inline constexpr NumberRange kNotNegative{.low = 0, .words = "a number, 0 or larger"};
inline constexpr NumberRange kFraction{.low = 0, .high = 1, .words = "a number from 0 to 1"};
inline constexpr NumberRange kShare{
    .low = 0, .high = 1, .open_low = true, .words = "a number above 0 and at most 1"};
inline constexpr NumberRange kBelowOne{
    .low = 0, .high = 1, .open_high = true, .words = "a number from 0 to below 1"};
/// What logits may be divided by, so that float32 holds the reciprocal of it and of their quotient.
inline constexpr NumberRange kTemperature{.low = 1e-6, .words = "a number, 1e-6 or larger"};
/// A finite decimal number. A default too low for the range stands for "not given".
Value number(double& target, NumberRange range, std::string placeholder = "X");

/// Text to integer; false when it is not one, or does not fit.
template <class Integer>
bool parse_integer(const std::string& text, Integer& target) {
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, target);
  return error == std::errc() && rest == end;
}

/// A whole number from `low` up to `high`. A default below `low` stands for "not given".
template <class Integer>
Value integer(Integer& target, Integer low, Integer high = std::numeric_limits<Integer>::max(),
              std::string placeholder = "N") {
  const auto set = [&target, low, high](const std::string& given) {
    Integer value{};
    const bool fits = parse_integer(given, value) && value >= low && value <= high;
    if (!fits && high == std::numeric_limits<Integer>::max())
      throw_input_error(fmt::format("must be a whole number, {} or larger", low));
    if (!fits) throw_input_error(fmt::format("must be a whole number from {} to {}", low, high));
    target = value;
  };
  return {.placeholder = std::move(placeholder),
          .initial = target < low ? "" : fmt::to_string(target),
          .set = set};
}

/// More than any computer holds, and so few that sums of them fit.
inline constexpr int64_t kMostTokens = int64_t{1} << 40;
/// A number of tokens from `low`.
inline Value token_count(int64_t& target, int64_t low) { return integer(target, low, kMostTokens); }

/// Ranks along one axis of the mesh: 1 or more, or -1 for "computed".
Value mesh_axis(int& target);
/// A size in bytes with an optional unit: 500MB, 5GB (powers of 1000), 5GiB (of 1024). A default of
/// 0 stands for "not given".
Value bytes(std::int64_t& target);
/// Steps as FIRST-LAST, or one step; from 1.
Value step_range(std::int64_t& first, std::int64_t& last);
/// Ids of tokens with commas between them, or "none".
Value token_list(std::optional<std::vector<int64_t>>& target);
/// none, full, selective, or every-K for a K from 1.
Value activation_checkpointing(ActivationCheckpointing& target);
/// Any of several names, with commas between them; those named are set, the others cleared.
Value subset(std::vector<std::pair<std::string, bool*>> members);

/// "a, b or c"
std::string join_choices(const std::vector<std::string>& names);

/// One of several names.
template <class T>
Value choice(T& target, const std::vector<std::pair<std::string, T>>& choices) {
  std::vector<std::string> names;
  Value value;
  for (const auto& [name, meaning] : choices) {
    names.push_back(name);
    if (meaning == target) value.initial = name;
  }
  value.placeholder = fmt::format("{}", fmt::join(names, "|"));
  value.set = [&target, choices, names](const std::string& given) {
    for (const auto& [name, meaning] : choices) {
      if (name != given) continue;
      target = meaning;
      return;
    }
    throw_input_error("must be " + join_choices(names));
  };
  return value;
}

/// float32 or bfloat16.
Value compute_dtype(at::ScalarType& target);

}  // namespace archon::cli
