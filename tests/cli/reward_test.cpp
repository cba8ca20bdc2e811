// archon reward: what it prints and writes, and that it never spoils a file.
#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <hdf5.h>

#include "archon/io/hdf5.hpp"
#include "archon/io/json.hpp"
#include "run_control.hpp"

using namespace archon;
using namespace archon::test;

namespace {

/// A file of three rollouts of two groups, the second of which is wrong.
struct RolloutFile {
  RolloutFile() { write({"/loss_mask", "/group_ids"}); }

  void write(const std::vector<std::string>& optional) const {
    const std::string text = "1+1=2\n12+1=12\n12+1=13\n";
    const auto has = [&](const char* name) {
      return std::find(optional.begin(), optional.end(), name) != optional.end();
    };
    auto file = h5::File::create(data, "archon.tokens", 1);
    file.write("/input_ids", at::tensor(std::vector<int64_t>(text.begin(), text.end())));
    file.write("/cu_seqlens", at::tensor(std::vector<int64_t>{0, 6, 14, 22}));
    if (has("/loss_mask"))
      file.write("/loss_mask", at::tensor(std::vector<int64_t>{0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0,
                                                               1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1})
                                   .to(at::kByte));
    if (has("/group_ids")) file.write("/group_ids", at::tensor(std::vector<int64_t>{4, 9, 9}));
    file.write("/more/that/stays", at::arange(5, at::kHalf));
    file.set_attribute("/", "note", std::string("mine"));
    file.flush();
  }

  ProcessResult reward(std::vector<std::string> more) const {
    more.insert(more.begin(), {"reward", "--data", data});
    return run_archon(more);
  }

  /// The rewards of a file that has all else that the first had.
  std::vector<float> rewards(const std::string& path) const {
    const h5::File file = h5::File::open(path);
    BOOST_CHECK_EQUAL(file.read("/input_ids").numel(), 22);
    BOOST_CHECK_EQUAL(file.read("/more/that/stays").numel(), 5);
    BOOST_CHECK_EQUAL(file.string_attribute("/", "note").value_or(""), "mine");
    BOOST_CHECK(file.info("/rewards").dtype == at::kFloat);
    const at::Tensor rewards = file.read("/rewards");
    const float* begin = rewards.const_data_ptr<float>();
    return {begin, begin + rewards.numel()};
  }

  TemporaryFolder folder;
  std::string data = folder / "rollouts.h5";
};

const std::vector<float> kRight = {1, 0, 1};

}  // namespace

BOOST_FIXTURE_TEST_CASE(rewards_go_into_the_file, RolloutFile) {
  const auto result = reward({"--reward", "arithmetic"});
  BOOST_REQUIRE_EQUAL(result.exit_code, 0);
  const Json json = Json::parse(result.out);
  BOOST_CHECK_EQUAL(json.at("rollouts").get<int>(), 3);
  BOOST_CHECK_EQUAL(json.at("groups").get<int>(), 2);
  BOOST_CHECK_CLOSE(json.at("mean").get<double>(), 2.0 / 3, 1e-9);
  BOOST_TEST(rewards(data) == kRight, boost::test_tools::per_element());
  BOOST_TEST(names_in(folder.path()) == std::vector<std::string>{"rollouts.h5"});
}

BOOST_FIXTURE_TEST_CASE(rewards_are_replaced, RolloutFile) {
  BOOST_REQUIRE_EQUAL(reward({"--reward-command", "sed 's/.*/0.5/'"}).exit_code, 0);
  BOOST_TEST(rewards(data) == std::vector<float>(3, 0.5), boost::test_tools::per_element());
  BOOST_REQUIRE_EQUAL(reward({"--reward", "arithmetic"}).exit_code, 0);
  BOOST_TEST(rewards(data) == kRight, boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(rewards_that_are_not_finite_are_replaced_too, RolloutFile) {
  h5::File::edit(data).write("/rewards", at::tensor({NAN, 1.0F, 1.0F}));
  BOOST_REQUIRE_EQUAL(reward({"--reward", "arithmetic"}).exit_code, 0);
  BOOST_TEST(rewards(data) == kRight, boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(another_output_leaves_the_file_as_it_is, RolloutFile) {
  const std::string before = read_bytes(data), output = folder / "judged.h5";
  BOOST_REQUIRE_EQUAL(reward({"--reward", "arithmetic", "--output", output}).exit_code, 0);
  BOOST_TEST(rewards(output) == kRight, boost::test_tools::per_element());
  BOOST_CHECK(read_bytes(data) == before);
}

BOOST_FIXTURE_TEST_CASE(a_program_is_given_prompt_completion_and_group, RolloutFile) {
  const std::string given = folder / "given";
  BOOST_REQUIRE_EQUAL(reward({"--reward-command", "tee " + given + " | sed 's/.*/1/'"}).exit_code,
                      0);
  CHECK_CONTAINS(
      read_bytes(given),
      "{\"index\":1,\"group\":9,\"prompt\":[49,50,43,49,61],\"completion\":[49,50,10]}\n");
}

BOOST_FIXTURE_TEST_CASE(a_plugin_may_be_given_as_a_file, RolloutFile) {
  const std::string copy = folder / "mine.so";
  std::filesystem::copy_file(
      std::string(std::getenv("ARCHON_TEST_BINARY_DIR")) + "/lib/archon/plugins/arithmetic.so",
      copy);
  BOOST_REQUIRE_EQUAL(reward({"--reward", copy}).exit_code, 0);
  BOOST_TEST(rewards(data) == kRight, boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(what_fails_leaves_the_file_as_it_is, RolloutFile) {
  const std::string before = read_bytes(data);
  check_refused(reward({"--reward-command", "echo what"}), {"\"what\"", "no finite number"});
  const std::string nested = "head -c 60000 /dev/zero | tr '\\0' '['; head -c 60000 /dev/zero | tr '\\0' ']'; echo";
  check_refused(reward({"--reward-command", nested}), {"no finite number"});
  const auto failed = reward({"--reward-command", "echo to stderr >&2; exit 9"});
  BOOST_CHECK_EQUAL(failed.exit_code, 3);
  CHECK_CONTAINS(failed.err, "to stderr\n");
  CHECK_CONTAINS(failed.err, "exit code 9");
  const auto silent = reward({"--reward-command", "sleep 30", "--reward-timeout", "0.2"});
  BOOST_CHECK_EQUAL(silent.exit_code, 3);
  BOOST_CHECK_LT(silent.seconds, 20);
  check_refused(reward({"--reward", "arithmetic", "--output", folder / "no/file.h5"}),
                {"no folder " + (folder / "no")});
  BOOST_CHECK(read_bytes(data) == before);
  BOOST_TEST(names_in(folder.path()) == std::vector<std::string>{"rollouts.h5"});
}

BOOST_FIXTURE_TEST_CASE(a_signal_kills_the_program_too, RolloutFile) {
  const std::string begun = folder / "begun", late = folder / "late";
  const std::string program = "touch " + begun + "; (sleep 3; touch " + late + ") | cat";
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    std::filesystem::remove(begun);
    const auto result = act_during(
        0, {"reward", "--data", data, "--reward-command", program},
        [&] { return std::filesystem::exists(begun); },
        [&] { BOOST_REQUIRE(::kill(find_process(archon_program(), data), signal) == 0); });
    BOOST_CHECK_EQUAL(result.exit_code, 128 + signal);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(3500));
  BOOST_CHECK(!std::filesystem::exists(late));
}

BOOST_FIXTURE_TEST_CASE(wrong_usage_and_input, RolloutFile) {
  check_refused(reward({}), {"give one of --reward and --reward-command"});
  check_refused(reward({"--reward", "arithmetic", "--reward-command", "cat"}),
                {"both are given of --reward and --reward-command"});
  check_refused(reward({"--reward", "algebra"}), {"\"algebra\"", "known: arithmetic"});
  for (const std::string missing : {"/loss_mask", "/group_ids"}) {
    write({missing == "/loss_mask" ? "/group_ids" : "/loss_mask"});
    check_refused(reward({"--reward", "arithmetic"}), {data + " has no dataset " + missing});
  }
  check_refused(run_archon({"reward", "--data", folder / "none.h5", "--reward", "arithmetic"}),
                {"none.h5"});
}
