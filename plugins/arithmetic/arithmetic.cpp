// The reward "arithmetic": 1 for the right answer to a problem such as "12+34=", else 0. Token ids
// are ASCII codes; the right answer is the decimal number and a newline, and nothing before it.
// What follows the newline does not count. tools/make_arithmetic.py makes such problems.
#include <archon/base/error.hpp>
#include <archon/model/plugin.hpp>
#include <charconv>
#include <string_view>

namespace {

std::string to_text(std::span<const int64_t> tokens) {
  std::string text;
  for (const int64_t token : tokens) text += token >= 0 && token < 128 ? static_cast<char>(token) : '?';
  return text;
}

/// Takes a number from the front of `text`. At most nine digits, so that a product fits.
bool take_number(std::string_view& text, int64_t& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool taken = error == std::errc() && std::abs(number) < 1'000'000'000;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return taken;
}

/// The answer to `problem`, or false when it is none.
bool solve(std::string_view problem, int64_t& answer) {
  int64_t first = 0, second = 0;
  if (!take_number(problem, first) || problem.empty()) return false;
  const char sign = problem.front();
  problem.remove_prefix(1);
  if (!take_number(problem, second) || problem != "=") return false;
  answer = sign == '+' ? first + second : sign == '-' ? first - second : first * second;
  return sign == '+' || sign == '-' || sign == '*';
}

class Arithmetic : public archon::RewardFunction {
  double operator()(const archon::Rollout& rollout) override {
    const std::string problem = to_text(rollout.prompt);
    int64_t answer = 0;
    ARCHON_VALIDATE(solve(problem, answer),
                    "the reward arithmetic cannot judge the prompt \"{}\"; it knows problems such as "
                    "12+34=, 12-34= and 12*34=, a token for each character",
                    problem);
    return to_text(rollout.completion).starts_with(std::to_string(answer) + "\n") ? 1 : 0;
  }
};

}  // namespace

ARCHON_PLUGIN("arithmetic", "1.0", registry) {
  registry.add_reward("arithmetic", std::make_unique<Arithmetic>);
}
