// Weights handed on while a run trains: published folders, and a consumer in the same MPI job.
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <signal.h>

#include "archon/io/folder_lock.hpp"
#include "archon/io/safetensors.hpp"
#include "archon/model/config.hpp"
#include "run_control.hpp"
#include "support/rollout_file.hpp"

using namespace archon;
using namespace archon::test;
namespace fs = std::filesystem;

namespace {

const std::string kRole = "engine";

std::string version_folder(const std::string& parent, int64_t version) {
  return fmt::format("{}/version-{:08}", parent, version);
}

/// A run beside a consumer, which leaves what it received in `received`.
struct Job : Inputs {
  using Inputs::Inputs;

  ProcessResult run(const std::vector<std::string>& archon, const std::string& behaviour = "all") {
    return launch({program(2, archon), consumer(1, kRole, behaviour)});
  }

  /// The programs of one job, in this order.
  ProcessResult launch(const std::vector<std::vector<std::string>>& programs) {
    fs::create_directories(received);
    std::vector<std::string> command = {ARCHON_TEST_MPIEXEC, "--oversubscribe"};
    for (const auto& words : programs) {
      if (&words != &programs.front()) command.emplace_back(":");
      command.insert(command.end(), words.begin(), words.end());
    }
    return run_process(command);
  }

  std::vector<std::string> program(int ranks, const std::vector<std::string>& more) const {
    auto words = train({"--batch-sequences", "2", "--lr", "1e-2"});
    words = with(words, more);
    words.insert(words.begin(), {"-n", std::to_string(ranks), archon_program()});
    return words;
  }

  std::vector<std::string> consumer(int ranks, const std::string& role,
                                    const std::string& behaviour) const {
    return {"-n", std::to_string(ranks), ARCHON_TEST_CONSUMER, role, received, behaviour};
  }

  std::string published = folder / "published", received = folder / "received";
};

/// Consumer `rank` received of this version exactly what the folder holds.
void check_received(const Job& job, int64_t version, int rank, const std::string& folder) {
  const std::string from = fmt::format("{}/{}-{}", job.received, version, rank);
  const WeightFolder weights(folder);
  std::istringstream lines(read_bytes(from + "/list"));
  std::size_t tensors = 0;
  for (std::string line; std::getline(lines, line); ++tensors) {
    std::istringstream words(line);
    std::string name, dtype;
    words >> name >> dtype;
    std::vector<int64_t> shape;
    for (int64_t extent = 0; words >> extent;) shape.push_back(extent);
    const SafetensorsEntry& entry = weights.entry(name);
    BOOST_CHECK_EQUAL(dtype, safetensors_dtype_name(entry.dtype));
    BOOST_CHECK(shape == entry.shape);
    const at::Tensor values = weights.view(name);
    const std::string wanted(static_cast<const char*>(values.const_data_ptr()), values.nbytes());
    BOOST_CHECK_MESSAGE(read_bytes(from + "/" + name) == wanted,
                        name << " of version " << version << " differs");
  }
  BOOST_CHECK_EQUAL(tensors, weights.names().size());
}

bool differ(const std::string& a, const std::string& b, const std::string& tensor) {
  return !at::equal(WeightFolder(a).view(tensor), WeightFolder(b).view(tensor));
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_consumer_receives_what_is_published_while_training_goes_on) {
  Job job("q2_tiny_tied");
  const auto result =
      job.launch({job.program(4, {"--tp", "2", "--steps", "3", "--save-every", "1", "--publish",
                                  job.published, "--publish-keep", "0", "--push-weights", kRole,
                                  "--push-bucket-size", "10000"}),
                  job.consumer(1, kRole, "all")});
  BOOST_REQUIRE_MESSAGE(result.exit_code == 0, result.err);
  CHECK_CONTAINS(result.err, "dp 2 x cp 1 x tp 2 on 4 ranks");
  BOOST_CHECK_EQUAL(count(result.out, "consumer 4: version "), 4);
  CHECK_CONTAINS(result.out, "consumer 4: ended");
  for (int64_t version = 0; version <= 3; ++version) {
    const std::string folder = version_folder(job.published, version);
    check_received(job, version, 4, folder);
    if (version == 0) continue;
    BOOST_CHECK(differ(folder, version_folder(job.published, version - 1), "model.norm.weight"));
    const std::string exported = job.folder / fmt::format("exported-{}", version);
    check_runs(1, {"export", "--checkpoint", step_folder(job, version), "--output", exported});
    check_received(job, version, 4, exported);
  }
  BOOST_CHECK_EQUAL(fs::read_symlink(job.published + "/latest"), "version-00000003");
  const auto same =
      run_archon({"diff", "--rtol", "0", job.published + "/latest", job.output + "/hf"});
  BOOST_CHECK_EQUAL(same.exit_code, 0);
}

// The first rank of MPI_COMM_WORLD is not Archon's; both consumers receive everything.
BOOST_AUTO_TEST_CASE(consumers_may_come_first_and_be_several) {
  Job job("q3_tiny");
  const auto result =
      job.launch({job.consumer(2, kRole, "all"),
                  job.program(2, {"--cp", "2", "--push-weights", kRole, "--push-every", "2",
                                  "--steps", "3", "--publish", job.published, "--publish-keep", "0",
                                  "--publish-every", "2"})});
  BOOST_REQUIRE_MESSAGE(result.exit_code == 0, result.err);
  CHECK_CONTAINS(result.err, "step 1/3");
  for (const int rank : {0, 1})
    for (const int64_t version : {0, 2, 3})
      check_received(job, version, rank, version_folder(job.published, version));
  BOOST_CHECK_EQUAL(count(result.out, "version "), 6);
  BOOST_CHECK_EQUAL(names_in(job.published).size(), 5u);  // three versions, latest and .lock

  const auto bad = job.launch({job.consumer(1, kRole, "all"), job.program(2, {"--lr", "fast"})});
  BOOST_CHECK_EQUAL(bad.exit_code, 2);
  CHECK_CONTAINS(bad.err, "archon: error: --lr fast");
}

BOOST_AUTO_TEST_CASE(roles_that_do_not_meet_are_refused) {
  Job job;
  const auto other = job.run({"--push-weights", "other"});
  BOOST_CHECK_EQUAL(other.exit_code, 2);
  CHECK_CONTAINS(other.err,
                 "archon[0]: error: beside archon there are processes in this job (1 of "
                 "role engine) that wait for weights, and --push-weights other names "
                 "another role; give --push-weights engine");
  const auto none = job.run({});
  BOOST_CHECK_EQUAL(none.exit_code, 2);
  CHECK_CONTAINS(none.err, "there is no --push-weights; give --push-weights engine");
  check_bad_input(2, job.train({"--push-weights", kRole}), {"archon has this job to itself"});
}

BOOST_AUTO_TEST_CASE(a_program_that_never_tells_its_role_is_waited_for_no_longer_than_allowed) {
  Job job;
  const auto result = job.run({"--push-weights", kRole, "--collective-timeout", "2"}, "silent");
  BOOST_CHECK_EQUAL(result.exit_code, 3);
  BOOST_CHECK_LT(result.seconds, 15);
  CHECK_CONTAINS(result.err,
                 "a collective waited longer than --collective-timeout 2 s: inside "
                 "exchange of roles over MPI_COMM_WORLD");
  CHECK_CONTAINS(result.err, "a program beside archon must call archon_consumer_connect");
}

BOOST_AUTO_TEST_CASE(a_consumer_that_stops_asking_ends_the_job_in_time) {
  Job job;
  const auto result =
      job.run({"--push-weights", kRole, "--steps", "100", "--collective-timeout", "2"}, "stall");
  BOOST_CHECK_EQUAL(result.exit_code, 3);
  BOOST_CHECK_LT(result.seconds, 15);
  CHECK_CONTAINS(result.err,
                 "archon[0]: error: a collective waited longer than "
                 "--collective-timeout 2 s: inside wait for a request over the link "
                 "to the consumer (number 1)");
}

BOOST_AUTO_TEST_CASE(a_consumer_that_never_asks_for_the_end_is_not_waited_for_for_ever) {
  Job job;
  const std::vector<std::string> more = {"--batch-sequences", "2", "--lr", "1e-2",
                                         "--save-every",      "2"};
  check_runs(2, job.train(more));
  const auto result =
      job.run({"--push-weights", kRole, "--save-every", "2", "--collective-timeout", "2"}, "stall");
  BOOST_CHECK_EQUAL(result.exit_code, 3);
  CHECK_CONTAINS(result.err, "waiting for the consumer's next request");
  CHECK_CONTAINS(result.err,
                 "archon[0]: error: a collective waited longer than --collective-timeout 2 s: "
                 "inside wait for a request over the link to the consumer (number 2)");
}

BOOST_AUTO_TEST_CASE(a_signal_ends_a_run_whether_the_consumer_asks_or_not) {
  for (const std::string behaviour : {"all", "stall"}) BOOST_TEST_CONTEXT(behaviour) {
      Job job;
      const auto result = act_during(
          [&] {
            return job.run({"--push-weights", kRole, "--steps", "1000000"}, behaviour);
          },
          [&] { return has_lines(job); },
          [&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(300));
            BOOST_REQUIRE(::kill(find_rank(job.output, 0), SIGTERM) == 0);
          });
      BOOST_CHECK_EQUAL(result.exit_code, 128 + SIGTERM);
      BOOST_CHECK_LT(result.seconds, 20);
      const int64_t saved = latest_step(job);
      CHECK_CONTAINS(result.err, fmt::format("ended by SIGTERM after step {}", saved));
      BOOST_CHECK_EQUAL(saved, static_cast<int64_t>(metrics(job).size()));
      if (behaviour == "all")
        CHECK_CONTAINS(result.out, "consumer 2: ended");
      else
        CHECK_CONTAINS(result.err, "cannot be told that the run ends");
    }
}

BOOST_AUTO_TEST_CASE(a_consumer_that_dies_ends_the_job) {
  Job job;
  const auto result = job.run({"--push-weights", kRole, "--steps", "1000"}, "die");
  BOOST_CHECK_EQUAL(result.exit_code, 128 + SIGKILL);
  BOOST_CHECK_LT(result.seconds, 15);
}

BOOST_AUTO_TEST_CASE(a_run_goes_on_without_a_consumer_that_leaves) {
  Job job;
  const auto result = job.run({"--push-weights", kRole, "--steps", "4"}, "leave");
  BOOST_CHECK_EQUAL(result.exit_code, 0);
  BOOST_CHECK_EQUAL(count(result.err, "the consumer of weights has left"), 1);
  BOOST_CHECK_EQUAL(metrics(job).size(), 4u);
}

BOOST_AUTO_TEST_CASE(a_refused_tensor_spoils_one_version_alone) {
  Job job;
  const auto result = job.run({"--push-weights", kRole, "--steps", "2"}, "refuse");
  BOOST_CHECK_EQUAL(result.exit_code, 0);
  for (const int version : {0, 1, 2})
    CHECK_CONTAINS(result.out, fmt::format("error: the program refused "
                                           "model.layers.0.self_attn.k_proj.weight of version {}",
                                           version));
  CHECK_CONTAINS(result.out, "ended");
}

BOOST_AUTO_TEST_CASE(a_run_need_not_wait_for_a_slow_consumer) {
  Job job;
  const auto result =
      job.run({"--push-weights", kRole, "--push-wait", "off", "--steps", "20"}, "slow");
  BOOST_CHECK_EQUAL(result.exit_code, 0);
  CHECK_CONTAINS(result.out, "version 0 ");
  CHECK_CONTAINS(result.out, "version 20 ");
  BOOST_CHECK_LT(count(result.out, "version "), 10);
}

BOOST_AUTO_TEST_CASE(published_versions_name_themselves_and_the_oldest_go) {
  const Inputs inputs;
  const std::string published = inputs.folder / "published";
  const auto publish = [&](const std::vector<std::string>& more) {
    auto arguments = inputs.train({"--batch-sequences", "2", "--publish", published});
    arguments.insert(arguments.end(), more.begin(), more.end());
    check_runs(1, arguments);
    return names_in(published);
  };
  using Names = std::vector<std::string>;
  for (const char* left_by_an_interrupted_run : {"/.version-00000002.tmp/a", "/.version-7.old"})
    fs::create_directories(published + left_by_an_interrupted_run);
  const Names two = publish({"--publish-every", "3", "--save-every", "1"});
  BOOST_CHECK((two == Names{".lock", "latest", "version-00000000", "version-00000002"}));
  const auto text = read_bytes(published + "/latest/model.safetensors").substr(0, 200);
  CHECK_CONTAINS(text, R"("__metadata__":{"format":"pt","version":"2"})");
  BOOST_CHECK_EQUAL(HfConfig::read(published + "/latest").model_type(), "qwen3");

  // Versions above the newest are of a run that was gone on with from an earlier step.
  fs::create_directories(version_folder(published, 7));
  fs::remove_all(step_folder(inputs, 2));
  const std::string before = read_bytes(version_folder(published, 2) + "/model.safetensors");
  const Names resumed = publish({"--publish-keep", "2"});
  BOOST_CHECK((resumed == Names{".lock", "latest", "version-00000001", "version-00000002"}));
  BOOST_CHECK(read_bytes(published + "/latest/model.safetensors") == before);

  check_bad_input(2, inputs.train({"--publish", inputs.data}), {"cannot make the folder"});
}

// Versions of an earlier run in the same folder are the oldest, but for the one that is trained.
BOOST_AUTO_TEST_CASE(a_version_that_is_the_model_stays_as_it_is) {
  const Inputs inputs;
  write_bytes(inputs.model + "/tokenizer.json", "{}");
  const std::string published = inputs.folder / "published";
  const auto train = [&](const std::string& model, const std::string& output) {
    const auto result = run_archon({"train", "--model", model, "--data", inputs.data, "--output",
                                    output, "--steps", "2", "--publish", published});
    BOOST_REQUIRE_MESSAGE(result.exit_code == 0, result.err);
    return result.err;
  };
  train(inputs.model, inputs.output);
  const std::string model = version_folder(published, 2), weights = model + "/model.safetensors";
  const std::string before = read_bytes(weights);
  CHECK_CONTAINS(train(model, inputs.folder / "second"),
                 model + " is this run's --model: it stays as it is, and the weights after step 2 "
                         "are not published");
  BOOST_CHECK(read_bytes(weights) == before);
  using Names = std::vector<std::string>;
  BOOST_CHECK((names_in(published) ==
               Names{".lock", "latest", "version-00000000", "version-00000001", "version-00000002"}));
  BOOST_CHECK_EQUAL(fs::read_symlink(published + "/latest"), "version-00000001");
  BOOST_CHECK_EQUAL(read_bytes(published + "/latest/tokenizer.json"), "{}");
}

BOOST_AUTO_TEST_CASE(two_runs_do_not_publish_in_one_folder) {
  const Inputs inputs;
  const std::string published = inputs.folder / "published";
  fs::create_directory(published);
  const FolderLock other(published);
  check_bad_input(2, inputs.train({"--publish", published}),
                  {"the folder " + published + " is in use by another run"});
}

// A run publishes its first version, and so moves the link, before a file asks for the reference.
BOOST_AUTO_TEST_CASE(the_newest_version_is_that_of_the_start) {
  const Inputs inputs;
  const std::string published = inputs.folder / "published", files = inputs.folder / "files";
  check_runs(1, inputs.train({"--lr", "1e-2", "--publish", published}));
  fs::create_directory(files);
  RolloutFile(1).write(files + "/1.h5");
  const std::string second = inputs.folder / "second", wanted = inputs.folder / "wanted.h5";
  check_runs(2, {"train", "--loss", "dpo", "--model", inputs.model, "--data", files, "--steps", "1",
                 "--output", second, "--reference", published + "/latest", "--publish", published});
  BOOST_CHECK_EQUAL(fs::read_symlink(published + "/latest"), "version-00000001");
  check_runs(1, {"forward", "--model", version_folder(published, 2), "--data", files + "/1.h5",
                 "--output", wanted});
  const at::Tensor got = h5::File::open(second + "/prepared/1.h5").read("/ref_logprobs");
  BOOST_CHECK(at::allclose(got, h5::File::open(wanted).read("/logprobs"), 0, 1e-4));

  const auto branch = [&](const std::string& steps) {
    return run_archon({"train", "--loss", "dpo", "--model", inputs.model, "--data", files,
                       "--epochs", "2", "--steps", steps, "--save-every", "1", "--save-hf", "off",
                       "--output", inputs.folder / "third", "--reference", published + "/latest"});
  };
  BOOST_CHECK_EQUAL(branch("1").exit_code, 0);
  fs::remove(published + "/latest");
  fs::create_symlink("version-00000002", published + "/latest");
  CHECK_CONTAINS(branch("2").err,
                 "--reference was " + version_folder(published, 1) +
                     " when the checkpoint was saved and is " + version_folder(published, 2));
}
