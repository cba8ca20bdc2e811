#include "reward_program.hpp"

#include <fmt/ranges.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>

#include "archon/base/error.hpp"
#include "archon/io/json.hpp"
#include "child_process.hpp"

namespace archon {
namespace {

constexpr std::size_t kPortion = 64 * 1024;  // bytes to write or read at a time
constexpr std::size_t kShownOfLine = 200;
constexpr double kGrace = 1;  // seconds to end, once it is known that the answers are wrong

std::string line_of(const RolloutView& rollout, std::size_t index) {
  return fmt::format("{{\"index\":{},\"group\":{},\"prompt\":[{}],\"completion\":[{}]}}\n", index,
                     rollout.group, fmt::join(rollout.prompt, ","),
                     fmt::join(rollout.completion, ","));
}

/// The reward that a line is, or NaN.
double parse_reward(std::string_view line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  const auto member = json.find("reward");  // the end, where it is no object
  const Json& reward = json.is_object() && member != json.end() ? *member : json;
  return reward.is_number() ? reward.get<double>() : std::nan("");
}

class Conversation {
 public:
  Conversation(const std::string& command, double silence_timeout,
               std::span<const RolloutView> rollouts)
      : command_(command),
        silence_timeout_(silence_timeout > 0 ? silence_timeout : -1),
        rollouts_(rollouts),
        program_(command) {}

  std::vector<float> hold() {
    while (program_.output() >= 0) exchange();
    check_end();
    return rewards_;
  }

 private:
  /// Waits until the program reads or answers, and moves what can be moved.
  void exchange() {
    if (outgoing_.empty()) prepare();
    std::array<pollfd, 2> ends = {pollfd{program_.output(), POLLIN, 0},
                                  pollfd{program_.input(), POLLOUT, 0}};  // -1 is passed over
    const int ready = ::poll(ends.data(), ends.size(), poll_timeout());
    if (ready < 0 && errno == EINTR) return;
    ARCHON_ENSURE(ready >= 0, "cannot wait for a pipe: {}", std::strerror(errno));
    if (ready == 0) fail_silent("neither read nor answered");
    if (ends[1].revents != 0) send();
    if (ends[0].revents != 0) receive();
  }

  int poll_timeout() const {  // in milliseconds
    constexpr double kLongest = std::numeric_limits<int>::max();
    return silence_timeout_ < 0 ? -1
                                : static_cast<int>(std::min(1000 * silence_timeout_, kLongest));
  }

  void prepare() {
    while (prepared_ < rollouts_.size() && outgoing_.size() < kPortion) {
      outgoing_ += line_of(rollouts_[prepared_], prepared_);
      ++prepared_;
    }
    if (outgoing_.empty()) program_.close_input();
  }

  void send() {
    const ssize_t written = ::write(program_.input(), outgoing_.data(), outgoing_.size());
    if (written > 0)
      outgoing_.erase(0, static_cast<std::size_t>(written));
    else if (errno == EPIPE)
      program_.close_input();  // it reads no more; what it answered still counts
  }

  void receive() {
    std::array<char, kPortion> bytes;
    const ssize_t count = ::read(program_.output(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) return;
    if (count > 0) {
      incoming_.append(bytes.data(), static_cast<std::size_t>(count));
      take_lines();
      if (incoming_.size() > kPortion) refuse(incoming_);
    } else {
      if (!incoming_.empty()) take(incoming_);  // the last line, without its end
      program_.close_output();
    }
  }

  void take_lines() {
    std::size_t begin = 0;
    for (std::size_t end; (end = incoming_.find('\n', begin)) != std::string::npos; begin = end + 1)
      take(std::string_view(incoming_).substr(begin, end - begin));
    incoming_.erase(0, begin);
  }

  void take(std::string_view line) {
    if (rewards_.size() == rollouts_.size())
      throw InputError(
          fmt::format("{} answered more than the {} rollouts that it was given, with \"{}\" "
                      "({}); let it print one line for each",
                      subject(), rollouts_.size(), shown(line), end()));
    const auto reward = static_cast<float>(parse_reward(line));
    if (!std::isfinite(reward)) refuse(line);
    rewards_.push_back(reward);
  }

  void check_end() {
    program_.close_input();
    if (!program_.wait(silence_timeout_)) fail_silent("closed its output, but did not end");
    ARCHON_ENSURE(program_.succeeded(), "{} {}, after {} of {} answers; its own messages say why",
                  subject(), program_.fate(), rewards_.size(), rollouts_.size());
    ARCHON_VALIDATE(
        rewards_.size() == rollouts_.size(),
        "{} gave {} answers for {} rollouts, and {}; let it print one line for each, in "
        "their order",
        subject(), rewards_.size(), rollouts_.size(), program_.fate());
  }

  [[noreturn]] void refuse(std::string_view line) {
    throw InputError(fmt::format(
        "{} answered rollout {} with \"{}\", which is no finite number, nor {{\"reward\": "
        "such a number}} ({}); let it print nothing but one such line for each rollout",
        subject(), rewards_.size(), shown(line), end()));
  }

  [[noreturn]] void fail_silent(const char* what) {
    program_.kill();
    throw RuntimeFailure(
        fmt::format("{} {} for {:g} s, after {} of {} answers, and was killed; mend "
                    "it (does it flush what it prints?), or raise --reward-timeout",
                    subject(), what, silence_timeout_, rewards_.size(), rollouts_.size()));
  }

  /// How the program ended, or that it had to be ended.
  std::string end() {
    program_.close_input();
    if (program_.wait(kGrace)) return "it " + program_.fate();
    program_.kill();
    return "it was still running, and was killed";
  }

  std::string subject() const { return fmt::format("the reward program \"{}\"", command_); }

  static std::string shown(std::string_view line) {
    std::string text(line.substr(0, kShownOfLine));
    std::ranges::replace_if(
        text, [](unsigned char c) { return std::iscntrl(c) != 0; }, '?');
    return text + (line.size() > kShownOfLine ? "..." : "");
  }

  const std::string& command_;
  double silence_timeout_;  // below 0: none
  std::span<const RolloutView> rollouts_;
  std::size_t prepared_ = 0;  // rollouts whose lines are sent, or in `outgoing_`
  std::string outgoing_, incoming_;
  std::vector<float> rewards_;
  ChildProcess program_;
};

}  // namespace

std::vector<float> ask_reward_program(const std::string& command, double silence_timeout,
                                      std::span<const RolloutView> rollouts) {
  return Conversation(command, silence_timeout, rollouts).hold();
}

}  // namespace archon
