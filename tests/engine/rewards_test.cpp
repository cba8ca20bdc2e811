// Rewards of rollouts, by functions and by programs.
#include "archon/engine/rewards.hpp"

#include <chrono>
#include <cmath>
#include <csignal>
#include <numeric>
#include <thread>

#include <boost/test/unit_test.hpp>

#include "archon/base/error.hpp"
#include "archon/model/plugin.hpp"
#include "archon/model/plugin_loader.hpp"
#include "support/temporary_folder.hpp"

using namespace archon;
using namespace archon::test;

namespace {

/// Rollouts whose prompts and completions are given as text, a token for each byte.
struct Rollouts {
  void add(int64_t group, const std::string& prompt, const std::string& completion) {
    texts.push_back({prompt.begin(), prompt.end()});
    texts.push_back({completion.begin(), completion.end()});
    groups.push_back(group);
  }
  std::vector<RolloutView> views() const {
    std::vector<RolloutView> result;
    for (std::size_t i = 0; i < groups.size(); ++i)
      result.push_back({groups[i], texts[2 * i], texts[2 * i + 1]});
    return result;
  }
  std::vector<std::vector<int64_t>> texts;
  std::vector<int64_t> groups;
};

Rollouts some(int64_t count) {
  Rollouts rollouts;
  for (int64_t i = 0; i < count; ++i) rollouts.add(i / 2, "1+1=", "2\n");
  return rollouts;
}

std::vector<float> ask(const Rollouts& rollouts, const std::string& command, double timeout = 20) {
  return compute_rewards(rollouts.views(), {.command = command, .silence_timeout = timeout});
}

template <class Exception>
void check_fails(const std::string& command, std::initializer_list<const char*> words,
                 int64_t rollouts = 3, double timeout = 20) {
  const auto begin = std::chrono::steady_clock::now();
  BOOST_TEST_CONTEXT(command) {
    BOOST_CHECK_EXCEPTION(
        ask(some(rollouts), command, timeout), Exception, [&](const Exception& error) {
          bool all = true;
          for (const char* word : words) {
            const bool there = std::string(error.what()).find(word) != std::string::npos;
            BOOST_CHECK_MESSAGE(there, word << " is not in: " << error.what());
            all = all && there;
          }
          return all;
        });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    BOOST_CHECK_LT(seconds.count(), 10);
  }
}

std::vector<float> arithmetic(std::initializer_list<std::array<const char*, 2>> answers) {
  load_plugins({});
  Rollouts rollouts;
  for (const auto& [prompt, completion] : answers) rollouts.add(0, prompt, completion);
  return compute_rewards(rollouts.views(), {.function = "arithmetic"});
}

}  // namespace

BOOST_AUTO_TEST_CASE(arithmetic_takes_the_exact_answer_only) {
  const std::vector<float> right = arithmetic({{"12+34=", "46\n"},
                                               {"12-34=", "-22\n"},
                                               {"3+5-2+8=", "14\n"},
                                               {"7=", "7\n"},
                                               {"0-0=", "0\n"},
                                               {"3+5-2*8=", "-8\n"},
                                               {"12*34*0-1=", "-1\n"},
                                               {"3037000499*3037000499=", "9223372030926249001\n"},
                                               {"12+34=", "46\nand more"}});
  BOOST_TEST(right == std::vector<float>(9, 1), boost::test_tools::per_element());
  const std::vector<float> wrong = arithmetic({{"12+34=", "47\n"},
                                               {"12+34=", "46"},  // no end
                                               {"12+34=", "046\n"},
                                               {"12+34=", "+46\n"},
                                               {"12+34=", " 46\n"},
                                               {"12+34=", "46 \n"},
                                               {"12+34=", "461\n"},
                                               {"12+34=", "\n46\n"},
                                               {"0-0=", "-0\n"},
                                               {"12+34=", ""}});
  BOOST_TEST(wrong == std::vector<float>(10, 0), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(arithmetic_refuses_what_is_no_problem) {
  for (const char* prompt :
       {"", "=", "12+=", "12+34", "+=", "12/34=", "1 + 2=", "12+34==", "a=",
        "9223372036854775807+1=", "9223372036854775807*2=", "99999999999999999999="})
    BOOST_TEST_CONTEXT(prompt) {
      BOOST_CHECK_EXCEPTION(arithmetic({{prompt, "46\n"}}), InputError,
                            mentions("cannot judge the prompt \"" + std::string(prompt) + "\""));
    }
  Rollouts large;
  large.texts = {{49, 200000, -5, 61}, {49}};
  large.groups = {0};
  BOOST_CHECK_EXCEPTION(compute_rewards(large.views(), {.function = "arithmetic"}), InputError,
                        mentions("1\?\?="));
}

BOOST_AUTO_TEST_CASE(a_function_is_named_or_its_plugin_is) {
  const std::string folder =
      std::string(std::getenv("ARCHON_TEST_BINARY_DIR")) + "/lib/archon/plugins/";
  BOOST_TEST(compute_rewards(some(2).views(), {.function = folder + "arithmetic.so"}) ==
             std::vector<float>(2, 1));
  BOOST_CHECK_EXCEPTION(compute_rewards(some(1).views(), {.function = "algebra"}), InputError,
                        mentions("\"algebra\"", "known: arithmetic"));
  BOOST_CHECK_EXCEPTION(compute_rewards(some(1).views(), {.function = folder + "qwen3.so"}),
                        InputError, mentions("qwen3.so", "brings no reward function"));
  BOOST_CHECK_EXCEPTION(compute_rewards(some(1).views(), {.function = "none.so"}), InputError,
                        mentions("none.so"));
}

BOOST_AUTO_TEST_CASE(functions_must_give_finite_numbers) {
  struct Fixed : RewardFunction {
    explicit Fixed(double value) : value(value) {}
    double operator()(const RolloutView&) override { return value; }
    double value;
  };
  const PluginRegistry registry("/plugins/mine.so");
  registry.add_reward("good", [] { return std::make_unique<Fixed>(-2.5); });
  registry.add_reward("nan", [] { return std::make_unique<Fixed>(std::nan("")); });
  registry.add_reward("large", [] { return std::make_unique<Fixed>(1e39); });
  const auto rewards = [](const char* name) {
    return compute_rewards(some(2).views(), {.function = name});
  };
  BOOST_TEST(rewards("good") == std::vector<float>(2, -2.5F));
  BOOST_CHECK_EXCEPTION(rewards("nan"), InputError,
                        mentions("reward nan of /plugins/mine.so", "rollout 0 of group 0"));
  BOOST_CHECK_EXCEPTION(rewards("large"), InputError, mentions("1e+39", "finite"));
  BOOST_CHECK_EXCEPTION(registry.add_reward("good", [] { return std::make_unique<Fixed>(0); }),
                        InputError, mentions("\"good\" is registered twice"));
}

BOOST_AUTO_TEST_CASE(a_program_is_given_each_rollout_and_answers_in_order) {
  const TemporaryFolder folder;
  Rollouts rollouts;
  rollouts.add(7, "ab", "c");
  rollouts.add(-1, "", "de");
  rollouts.add(8, "f", "");
  const std::string given = folder / "given";
  const std::vector<float> rewards =
      ask(rollouts,
          "cat > '" + given + "'; echo 1; echo '{\"note\": [2], \"reward\": -2.5e1}'; printf 3");
  BOOST_TEST(rewards == (std::vector<float>{1, -25, 3}), boost::test_tools::per_element());
  BOOST_TEST(read_bytes(given) ==
             "{\"index\":0,\"group\":7,\"prompt\":[97,98],\"completion\":[99]}\n"
             "{\"index\":1,\"group\":-1,\"prompt\":[],\"completion\":[100,101]}\n"
             "{\"index\":2,\"group\":8,\"prompt\":[102],\"completion\":[]}\n");
}

// Pipes hold 64 KiB. Three times a program that would be stuck if only one way were served at a
// time: it answers line by line, it answers at its end, it answers before it reads.
BOOST_AUTO_TEST_CASE(full_pipes_stop_nobody) {
  const Rollouts rollouts = some(30000);
  std::vector<float> expected(30000);
  std::iota(expected.begin(), expected.end(), 0);
  const char* answer = "s/^{\"index\":\\([0-9]*\\).*/\\1/";
  for (const std::string& command :
       {std::string("sed -u '") + answer + "'",
        std::string("cat > lines-$$; sed '") + answer + "' lines-$$; rm lines-$$",
        std::string("seq 0 29999; cat > /dev/null")})
    BOOST_TEST_CONTEXT(command) { BOOST_TEST(ask(rollouts, command) == expected); }
}

BOOST_AUTO_TEST_CASE(a_program_may_leave_its_input_unread) {
  BOOST_TEST(ask(some(30000), "exec 0<&-; yes 1 | head -n 30000") == std::vector<float>(30000, 1));
}

BOOST_AUTO_TEST_CASE(wrong_answers_are_shown) {
  const char* expected = "no finite number";
  check_fails<InputError>("sed -u '2s/.*/maybe/; 2!s/.*/1/'",
                          {"rollout 1", "\"maybe\"", expected, "ended with exit code 0"});
  check_fails<InputError>("echo 1; echo NaN; exit 5", {"rollout 1", "\"NaN\"", "exit code 5"});
  for (const char* answer : {"true", "\"1\"", "null", "[1]", "{}", "{\"reward\": \"1\"}", "1e39",
                             "-1e999", "1 2", "", "Infinity"})
    check_fails<InputError>(std::string("echo '") + answer + "'", {expected, answer});
  check_fails<InputError>("yes", {"\"y\"", "was killed"});
  check_fails<InputError>("cat /dev/zero", {"\"\?\?\?\?", "was killed"});
  check_fails<InputError>("echo 1; echo 1", {"2 answers for 3 rollouts", "exit code 0"});
  check_fails<InputError>("echo 1; echo 2; echo 3; echo 4; exit 7",
                          {"more than the 3 rollouts", "\"4\"", "exit code 7"});
}

BOOST_AUTO_TEST_CASE(programs_that_fail_say_how) {
  check_fails<RuntimeFailure>("exit 3", {"\"exit 3\"", "exit code 3", "0 of 3 answers"});
  check_fails<RuntimeFailure>("no-such-program", {"exit code 127"});
  check_fails<RuntimeFailure>("echo 1; kill -9 $$", {"killed by signal 9", "1 of 3 answers"});
  check_fails<RuntimeFailure>("echo 1; echo 1; echo 1; exit 1", {"exit code 1", "3 of 3"});
  check_fails<RuntimeFailure>("exit 4", {"exit code 4"}, 30000);  // while lines are sent
}

BOOST_AUTO_TEST_CASE(silent_programs_are_killed_with_what_they_started) {
  const TemporaryFolder folder;
  const std::string late = folder / "late";
  check_fails<RuntimeFailure>("(sleep 2; touch '" + late + "') | cat",
                              {"0.3 s", "0 of 3 answers", "--reward-timeout"}, 3, 0.3);
  check_fails<RuntimeFailure>("seq 3; exec >&-; sleep 30", {"did not end"}, 3, 0.3);
  check_fails<RuntimeFailure>("sleep 30", {"neither read nor answered"}, 30000, 0.3);
  std::this_thread::sleep_for(std::chrono::seconds(2));
  BOOST_TEST(!std::filesystem::exists(late));
}

BOOST_AUTO_TEST_CASE(what_a_program_leaves_in_the_background_is_killed) {
  const TemporaryFolder folder;
  const std::string late = folder / "late";
  ask(some(3), "(sleep 1; touch '" + late + "') > /dev/null & yes 1 | head -n 3");
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  BOOST_TEST(!std::filesystem::exists(late));
}

BOOST_AUTO_TEST_CASE(an_exit_code_is_seen_where_ends_of_children_are_ignored) {
  const auto before = std::signal(SIGCHLD, SIG_IGN);
  check_fails<RuntimeFailure>("exit 3", {"exit code 3"});
  BOOST_TEST((std::signal(SIGCHLD, before) == SIG_IGN));
}

BOOST_AUTO_TEST_CASE(a_slow_program_that_shows_signs_goes_on) {
  BOOST_TEST(ask(some(4), "while read -r line; do sleep 0.3; echo 1; done", 0.8) ==
             std::vector<float>(4, 1));
}
