// The reward "arithmetic": 1 for the right answer to a problem such as "12+34=" or "3+5-2*8=", else
// 0. Token ids are ASCII codes; the right answer is the decimal number and a newline, and nothing
// before it. What follows the newline does not count. tools/make_arithmetic.py makes problems.
#include <archon/base/error.hpp>
#include <archon/model/plugin.hpp>
#include <charconv>
#include <string_view>

namespace {

std::string to_text(std::span<const int64_t> tokens) {
  std::string text;
  for (const int64_t token : tokens)
    text += token >= 0 && token < 128 ? static_cast<char>(token) : '?';
  return text;
}

// Each takes what it evaluates from the front of `text`; false when there is none, or it has more
// digits than an integer of 64 bits.

bool take_number(std::string_view& text, int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return error == std::errc();
}

bool take_product(std::string_view& text, int64_t& value) {
  if (!take_number(text, value)) return false;
  while (text.starts_with('*')) {
    text.remove_prefix(1);
    int64_t factor = 0;
    if (!take_number(text, factor) || __builtin_mul_overflow(value, factor, &value)) return false;
  }
  return true;
}

bool take_sum(std::string_view& text, int64_t& value) {
  if (!take_product(text, value)) return false;
  while (text.starts_with('+') || text.starts_with('-')) {
    const bool plus = text.front() == '+';
    text.remove_prefix(1);
    int64_t term = 0;
    if (!take_product(text, term)) return false;
    if (plus ? __builtin_add_overflow(value, term, &value)
             : __builtin_sub_overflow(value, term, &value))
      return false;
  }
  return true;
}

class Arithmetic : public archon::RewardFunction {
  double operator()(const archon::RolloutView& rollout) override {
    const std::string problem = to_text(rollout.prompt);
    std::string_view rest = problem;
    int64_t answer = 0;
    ARCHON_VALIDATE(
        take_sum(rest, answer) && rest == "=",
        "the reward arithmetic cannot judge the prompt \"{}\"; it knows problems such as "
        "12+34= and 3+5-2*8=, a token for each character",
        problem);
    return to_text(rollout.completion).starts_with(std::to_string(answer) + "\n") ? 1 : 0;
  }
};

}  // namespace

ARCHON_PLUGIN("arithmetic", "1.0", registry) {
  registry.add_reward("arithmetic", std::make_unique<Arithmetic>);
}
