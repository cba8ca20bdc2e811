// A folder of data that grows while a run trains on it, through the program itself.
#include <ATen/ops/tensor.h>

#include "run_control.hpp"
#include "support/rollout_file.hpp"

using namespace archon;
using namespace archon::test;
namespace fs = std::filesystem;

namespace {

/// Each file holds three steps.
struct Feed : Inputs {
  Feed() {
    write_varied_sequences(*this);
    fs::create_directory(files);
    add("1.h5");
  }
  void add(const std::string& name) const {
    fs::copy_file(data, files + "/." + name);
    fs::rename(files + "/." + name, files + "/" + name);
  }
  std::vector<std::string> command(const std::vector<std::string>& more = {}) const {
    return with({"train", "--model", model, "--data", files, "--output", output,
                 "--batch-sequences", "8", "--save-hf", "off"},
                more);
  }
  void wait_for(std::size_t steps) const {
    for (int i = 0; i < 4000 && metrics_of(steps) < steps; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  std::string files = folder / "files";

 private:
  /// Steps that have a whole line, at most as many as asked for.
  std::size_t metrics_of(std::size_t most) const {
    return std::min<std::size_t>(
        most, static_cast<std::size_t>(count(read_bytes(output + "/metrics.jsonl"), "\n")));
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(files_that_come_later_are_taken_each_once_and_a_signal_ends_the_wait) {
  for (const int ranks : {0, 2}) BOOST_TEST_CONTEXT(ranks << " ranks") {
      const Feed feed;
      const auto waited = act_during(
          ranks, feed.command({"--data-wait", "60"}), [&] { return has_lines(feed); },
          [&] {
            feed.wait_for(3);
            feed.add("0.h5");  // before the first by name: it was not there then
            feed.wait_for(6);
            std::this_thread::sleep_for(std::chrono::milliseconds(500));
            const pid_t process = ranks == 0 ? find_process(archon_program(), feed.output)
                                             : find_rank(feed.output, 1);
            BOOST_REQUIRE(::kill(process, SIGTERM) == 0);
          });
      BOOST_CHECK_EQUAL(waited.exit_code, 128 + SIGTERM);
      CHECK_CONTAINS(waited.err, "is used up; waiting up to 60 s for another");
      CHECK_CONTAINS(waited.err, "ended by SIGTERM after step 6");
      BOOST_CHECK_EQUAL(latest_step(feed), 6);

      // Nothing new, nothing done; then one more file, which alone is trained on.
      BOOST_CHECK_EQUAL(run_on(std::max(1, ranks), feed.command()).exit_code, 0);
      BOOST_CHECK_EQUAL(metrics(feed).size(), 6u);
      feed.add("2.h5");
      BOOST_CHECK_EQUAL(run_on(std::max(1, ranks), feed.command()).exit_code, 0);
      BOOST_CHECK_EQUAL(metrics(feed).size(), 9u);
    }
}

BOOST_AUTO_TEST_CASE(a_file_that_is_refused_costs_no_step) {
  const std::vector<std::string> planned = {"--save-every", "100"}, unplanned;
  for (const auto& [ranks, saves] :
       {std::pair(1, planned), {2, planned}, {1, unplanned}, {2, unplanned}})
    BOOST_TEST_CONTEXT(ranks << " ranks, " << saves.size() << " options of saves") {
      const Feed feed;
      write_bytes(feed.files + "/2.h5", "no HDF5");
      const auto refused = run_on(ranks, feed.command(saves));
      BOOST_CHECK_EQUAL(refused.exit_code, 2);
      CHECK_CONTAINS(refused.err, "2.h5");
      BOOST_CHECK_EQUAL(latest_step(feed), 3);
      fs::remove(feed.files + "/2.h5");
      feed.add("2.h5");
      const auto mended = run_on(ranks, feed.command({"--save-every", "100"}));
      BOOST_CHECK_EQUAL(mended.exit_code, 0);
      CHECK_CONTAINS(mended.err, "goes on after step 3");
      BOOST_CHECK_EQUAL(metrics(feed).size(), 6u);
    }
}

// What a loss needs is computed by all ranks, each from its own sequences.
BOOST_AUTO_TEST_CASE(a_file_that_one_rank_alone_would_refuse_costs_no_step) {
  const Feed feed;
  fs::remove(feed.files + "/1.h5");
  RolloutFile rollouts(1);
  rollouts.write(feed.files + "/1.h5");
  rollouts.rollouts[1].tokens[0] = 5000;
  rollouts.write(feed.files + "/2.h5");
  const auto refused =
      run_on(2, feed.command({"--loss", "dpo", "--reference", feed.model, "--save-every", "100",
                              "--collective-timeout", "20"}));
  BOOST_CHECK_EQUAL(refused.exit_code, 2);
  CHECK_CONTAINS(refused.err, "2.h5: /input_ids[");
  BOOST_CHECK_LT(refused.seconds, 30);
  BOOST_CHECK_EQUAL(latest_step(feed), 2);
}

// On another host, whose view of a shared file system lags behind.
BOOST_AUTO_TEST_CASE(a_file_that_one_rank_alone_does_not_see_costs_no_step) {
  const Feed feed;
  feed.add("2.h5");
  const std::string lagging = feed.folder / "lagging";
  fs::create_directories(lagging + "/files");
  fs::copy_file(feed.files + "/1.h5", lagging + "/files/1.h5");
  std::vector<std::string> job = {ARCHON_TEST_MPIEXEC, "--oversubscribe"};
  for (const std::string& host : {feed.folder.path(), lagging}) {
    for (const std::string& word :
         {std::string("-n"), std::string("1"), std::string("-wdir"), host, archon_program()})
      job.push_back(word);
    for (const std::string& word :
         feed.command({"--data", "files", "--save-every", "100", "--collective-timeout", "30"}))
      job.push_back(word);
    job.emplace_back(":");
  }
  job.pop_back();
  const auto refused = run_process(job);
  BOOST_CHECK_EQUAL(refused.exit_code, 2);
  CHECK_CONTAINS(refused.err, "error: rank 1: ");
  CHECK_CONTAINS(refused.err, "files/2.h5");
  BOOST_CHECK_LT(refused.seconds, 25);
  BOOST_CHECK_EQUAL(latest_step(feed), 3);
}

// Scripts that want a run to end ask for a checkpoint first, and wait for it.
BOOST_AUTO_TEST_CASE(a_run_that_waits_says_when_there_is_nothing_to_save) {
  const Feed feed;
  const auto waited = act_during(
      2, feed.command({"--data-wait", "60", "--save-every", "3"}), [&] { return has_lines(feed); },
      [&] {
        feed.wait_for(3);
        for (const int signal : {SIGUSR1, SIGTERM}) {
          std::this_thread::sleep_for(std::chrono::milliseconds(1000));
          BOOST_REQUIRE(::kill(find_rank(feed.output, 1), signal) == 0);
        }
      });
  BOOST_CHECK_EQUAL(waited.exit_code, 128 + SIGTERM);
  BOOST_CHECK_EQUAL(count(waited.err, "nothing to save"), 1);
  BOOST_CHECK_EQUAL(latest_step(feed), 3);
}

// What was computed for the file lies beside the run, not beside its checkpoints.
BOOST_AUTO_TEST_CASE(checkpoints_behind_a_link_find_what_was_computed_for_their_file) {
  const Feed feed;
  RolloutFile(1).write(feed.files + "/1.h5");
  const std::string elsewhere = feed.folder / "elsewhere";
  fs::create_directories(elsewhere);
  fs::create_directories(feed.output);
  fs::create_directory_symlink(elsewhere, feed.output + "/checkpoints");
  const auto go = [&](const std::string& steps) {
    return run_archon(feed.command({"--loss", "dpo", "--reference", feed.model, "--save-every", "1",
                                    "--batch-sequences", "2", "--steps", steps}));
  };
  BOOST_CHECK_EQUAL(go("2").exit_code, 0);
  const auto resumed = go("4");
  BOOST_CHECK_MESSAGE(resumed.exit_code == 0, resumed.err);
  CHECK_CONTAINS(resumed.err, "goes on after step 2");
}

BOOST_AUTO_TEST_CASE(a_save_that_failed_is_made_when_it_is_asked_for_again) {
  const Feed feed;
  const auto waited = act_during(
      [&] {
        return run_archon_ranks(2, feed.command({"--data-wait", "60", "--save-every", "3"}),
                                {{"ARCHON_FAIL_CHECKPOINT", "space"}});
      },
      [&] { return has_lines(feed); },
      [&] {
        feed.wait_for(3);
        std::this_thread::sleep_for(std::chrono::milliseconds(500));
        BOOST_CHECK_EQUAL(latest_step(feed), 0);
        BOOST_REQUIRE(::kill(find_rank(feed.output, 1), SIGTERM) == 0);
      });
  BOOST_CHECK_EQUAL(waited.exit_code, 128 + SIGTERM);
  CHECK_CONTAINS(waited.err, "no checkpoint of step 3");
  CHECK_CONTAINS(waited.err, "ended by SIGTERM after step 3");
  BOOST_CHECK_EQUAL(latest_step(feed), 3);
}

BOOST_AUTO_TEST_CASE(a_folder_that_ends_sooner_leaves_the_profile_of_its_steps) {
  const Feed feed;
  const std::string profile = feed.folder / "profile.json";
  const auto traced = [&](const std::string& steps) {
    return run_on(2, feed.command({"--steps", "9", "--resume", "none", "--output",
                                   feed.folder / ("run " + steps), "--profile", profile,
                                   "--profile-steps", steps}));
  };
  const auto none = traced("7-8");
  CHECK_CONTAINS(none.err, "the run ended before, so " + profile + " is not written");
  BOOST_CHECK(!fs::exists(profile));
  const auto some = traced("2-8");
  CHECK_CONTAINS(some.err, "wrote " + profile + ": steps 2 to 3");
  BOOST_CHECK(!read_json_file(profile).at("traceEvents").empty());
}

BOOST_AUTO_TEST_CASE(a_folder_without_a_file) {
  const Feed feed;
  fs::remove(feed.files + "/1.h5");
  check_bad_input(2, feed.command(), {feed.files, "without *.h5 files", "--data-wait"});
}

BOOST_AUTO_TEST_CASE(a_file_whose_name_no_checkpoint_can_hold_is_refused) {
  const Feed feed;
  feed.add("2\xe9.h5");
  const auto refused = run_archon(feed.command({"--save-every", "100"}));
  BOOST_CHECK_EQUAL(refused.exit_code, 2);
  CHECK_CONTAINS(refused.err, "the name of 2\xe9.h5 must be UTF-8; rename it");
  BOOST_CHECK_EQUAL(latest_step(feed), 3);
}

BOOST_AUTO_TEST_CASE(a_folder_without_a_file_is_waited_for_and_then_done) {
  const Feed feed;
  fs::remove(feed.files + "/1.h5");
  const auto result = run_archon(feed.command({"--data-wait", "0.5"}));
  BOOST_CHECK_EQUAL(result.exit_code, 0);
  BOOST_CHECK_EQUAL(metrics(feed).size(), 0u);
}

// Their rewards hold what the policies differ by.
BOOST_AUTO_TEST_CASE(critics_with_a_divergence_are_told_of_another_temperature) {
  const Inputs critic("q2_critic"), actor("q2_tiny_tied");
  RolloutFile rollouts;
  rollouts.temperature = 0.7;
  rollouts.write(critic.data);
  const std::vector<std::string> divergence = {"--kl-in", "reward",      "--kl-coefficient",
                                               "0.1",     "--reference", actor.model};
  const auto warned = [&](const std::vector<std::string>& options, const std::string& temperature) {
    auto command =
        critic.train({"--loss", "critic", "--resume", "none", "--output",
                      critic.folder / ("out" + std::to_string(options.size()) + temperature)});
    command.insert(command.end(), options.begin(), options.end());
    if (temperature != "1") command.insert(command.end(), {"--temperature", temperature});
    const auto result = run_archon(command);
    BOOST_CHECK_MESSAGE(result.exit_code == 0, result.err);
    return contains(result.err, "was sampled at temperature 0.7, and --temperature is 1:");
  };
  BOOST_CHECK(warned(divergence, "1"));
  BOOST_CHECK(!warned(divergence, "0.7"));
  BOOST_CHECK(!warned({}, "1"));
}
