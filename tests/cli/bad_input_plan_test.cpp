// What `archon plan` refuses; and settings that no command combines, refused before anything is
// loaded.
#include <fmt/ranges.h>

#include "inputs.hpp"

using namespace archon;
using namespace archon::test;

namespace {

std::vector<std::string> plan(const Inputs& inputs, const std::vector<std::string>& more) {
  std::vector<std::string> command = {"plan", "--model", inputs.model};
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

/// Refused, with the plan on stdout and a last line that says what is too large.
void check_does_not_fit(const std::vector<std::string>& arguments, const std::string& table,
                        const std::vector<std::string>& parts) {
  const auto result = run_archon(arguments);
  BOOST_TEST_CONTEXT(fmt::format("{}", fmt::join(arguments, " "))) {
    BOOST_CHECK_EQUAL(result.exit_code, 2);
    CHECK_CONTAINS(result.out, table);
    for (const std::string& part : parts) CHECK_CONTAINS(result.err, part);
    BOOST_CHECK_EQUAL(count(result.err, "error: "), 1);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(plans_without_a_mesh) {
  const Inputs inputs;
  check_bad_input(1, plan(inputs, {}), {"neither a mesh nor a number of ranks", "--world-size N"});
  check_bad_input(2, plan(inputs, {}), {"neither a mesh nor a number of ranks"});
  check_bad_input(1, {"plan", "--dp", "2"}, {"missing --model"});
  for (const char* option : {"--dp", "--cp", "--tp", "--world-size"})
    for (const char* value : {"0", "two", "1000001"})
      check_bad_input(1, plan(inputs, {option, value}), {option, value, "from 1 to 1000000"});
}

BOOST_AUTO_TEST_CASE(plans_of_meshes_that_are_not_the_world_size) {
  const Inputs inputs;
  check_bad_input(1, plan(inputs, {"--world-size", "4", "--dp", "3"}),
                  {"dp 3 x cp 1 x tp 1 has 3 ranks", "--world-size is 4"});
  check_bad_input(1, plan(inputs, {"--world-size", "4", "--dp", "2", "--cp", "2", "--tp", "2"}),
                  {"dp 2 x cp 2 x tp 2 has 8 ranks", "--world-size is 4"});
  check_bad_input(1, plan(inputs, {"--world-size", "7", "--tp", "2"}),
                  {"dp 3 x cp 1 x tp 2 has 6 ranks", "--world-size is 7", "leave out --dp"});
  check_bad_input(1, plan(inputs, {"--world-size", "1", "--cp", "2"}),
                  {"dp 1 x cp 2 x tp 1 has 2 ranks", "--world-size is 1"});
  check_bad_input(1, plan(inputs, {"--dp", "1000000", "--cp", "1000000", "--tp", "1000000"}),
                  {"has 1000000000000000000 ranks", "up to 1000000"});
  check_runs(1, plan(inputs, {"--world-size", "8", "--tp", "2"}));
  check_runs(1, plan(inputs, {"--world-size", "7"}));
}

BOOST_AUTO_TEST_CASE(plans_of_meshes_that_the_heads_refuse) {
  const Inputs inputs;
  check_bad_input(1, plan(inputs, {"--tp", "4"}),
                  {"--tp 4", "4 attention heads", "2 key/value", "nearest first: 2, 1"});
  check_bad_input(1, plan(inputs, {"--world-size", "6", "--cp", "3"}),
                  {"--cp 3", "4 attention heads", "nearest first: 2, 4, 1"});
}

BOOST_AUTO_TEST_CASE(plans_that_do_not_fit_show_the_plan_and_what_to_do) {
  const Inputs inputs;
  check_does_not_fit(plan(inputs, {"--dp", "2", "--memory-per-rank", "60MiB"}),
                     "backward of layer 2",
                     {"dp 2 x cp 1 x tp 1 does not fit in 60.0 MiB per rank", "MiB, of which",
                      "try --activation-checkpointing full"});
  check_does_not_fit(plan(inputs, {"--dp", "2", "--memory-per-rank", "60MiB", "--json"}),
                     "\"peak_bytes\"", {"does not fit in 60.0 MiB"});
  check_does_not_fit(
      plan(inputs, {"--world-size", "4", "--memory-per-rank", "1MiB"}), "does not fit: ",
      {"no mesh of 4 ranks fits in 1.0 MiB per rank", "the table says what each lacks"});
  for (const char* size : {"0", "-1GiB", "1 GiB", "lots", "1.5GiB"})
    check_bad_input(1, plan(inputs, {"--dp", "2", "--memory-per-rank", size}),
                    {"--memory-per-rank", size, "must be a size such as 500MB"});
}

BOOST_AUTO_TEST_CASE(plans_for_gpus_that_are_not_known_or_not_asked_for) {
  const Inputs inputs;
  check_bad_input(1, plan(inputs, {"--dp", "2", "--device", "cuda"}),
                  {"--device cuda", "give --gpu a100, h100 or b200"});
  check_bad_input(1, plan(inputs, {"--dp", "2", "--device", "cuda", "--gpu", "v100"}),
                  {"--gpu v100", "must be a100, h100 or b200"});
  check_bad_input(1, plan(inputs, {"--dp", "2", "--device", "tpu"}),
                  {"--device tpu", "must be cpu or cuda"});
  for (const auto& [option, value] : std::map<std::string, std::string>{
           {"--gpu", "h100"}, {"--gpus-per-node", "4"}, {"--nic-gbps", "100"}})
    check_bad_input(1, plan(inputs, {"--dp", "2", option, value}),
                    {option + " " + value, "no meaning with --device cpu", "add --device cuda"});
  const auto on_gpus = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"--device", "cuda", "--gpu", "h100"});
    return plan(inputs, more);
  };
  check_bad_input(1, on_gpus({"--dp", "2", "--gpus-per-node", "0"}),
                  {"--gpus-per-node 0", "from 1 to 1000000"});
  for (const char* value : {"0", "-1", "fast"})
    check_bad_input(1, on_gpus({"--dp", "2", "--nic-gbps", value}), {"--nic-gbps", value});
  check_bad_input(1, on_gpus({}), {"neither a mesh nor a number of ranks"});
  check_bad_input(1, on_gpus({"--tp", "4"}),
                  {"--tp 4", "2 key/value", "nearest first: 2, 1"});
}

BOOST_AUTO_TEST_CASE(plans_that_do_not_fit_a_gpu) {
  const Inputs inputs;
  const auto on_gpus = [&](const std::string& gpu, const std::vector<std::string>& more) {
    std::vector<std::string> command = {"--device", "cuda", "--gpu", gpu, "--max-sequence",
                                        "33554432"};
    command.insert(command.end(), more.begin(), more.end());
    return plan(inputs, command);
  };
  // 80 and 180 GB, as the data sheets count.
  check_does_not_fit(on_gpus("h100", {"--dp", "2"}), "least time of a step",
                     {"does not fit in 76293.9 MiB per rank: it needs", "of which activations"});
  check_does_not_fit(on_gpus("b200", {"--world-size", "2", "--json"}), "\"largest\"",
                     {"no mesh of 2 ranks fits in 171661.4 MiB per rank"});
  check_runs(1, on_gpus("h100", {"--dp", "2", "--memory-per-rank", "10000GB"}));
}

BOOST_AUTO_TEST_CASE(plans_of_batches_that_are_not_there) {
  const Inputs inputs;
  check_bad_input(1, plan(inputs, {"--dp", "2", "--batch-sequences", "0"}),
                  {"--batch-sequences 0", "no --data FILE"});
  check_bad_input(1, plan(inputs, {"--dp", "2", "--data", inputs.folder / "absent.h5"}),
                  {"absent.h5", "No such file"});
  write_bytes(inputs.data, "no HDF5");
  check_bad_input(1, plan(inputs, {"--dp", "2", "--data", inputs.data}), {inputs.data});
  check_bad_input(1, plan(inputs, {"--dp", "2", "--micro-batch-tokens", "0"}),
                  {"--micro-batch-tokens 0"});
}

BOOST_AUTO_TEST_CASE(plans_of_models_that_are_not_there_or_damaged) {
  const Inputs inputs;
  const std::string config = inputs.model + "/config.json", whole = read_bytes(config);
  const auto refused = [&](const std::vector<std::string>& parts) {
    check_bad_input(1, plan(inputs, {"--dp", "2"}), parts);
    check_bad_input(1, plan(inputs, {"--world-size", "2"}), parts);
  };
  check_bad_input(1, {"plan", "--dp", "2", "--model", inputs.folder / "absent"},
                  {inputs.folder / "absent", "No such file"});
  write_bytes(config, whole.substr(0, whole.size() / 2));
  refused({config});
  write_bytes(config, whole);
  inputs.edit_config([](Json& json) { json["model_type"] = "dreamer"; });
  refused({"dreamer", "qwen3"});
  write_bytes(config, whole);
  inputs.edit_config([](Json& json) { json.erase("vocab_size"); });
  refused({config, "vocab_size"});
  write_bytes(config, whole);
  inputs.edit_config([](Json& json) { json["num_hidden_layers"] = 0; });
  refused({config, "num_hidden_layers"});
  std::filesystem::remove(config);
  refused({config});
}

// Neither the model nor the data is there: a message about the settings shows that nothing was
// opened before.
BOOST_AUTO_TEST_CASE(settings_that_cannot_be_combined_are_refused_before_anything_is_loaded) {
  const TemporaryFolder folder;
  const std::vector<std::string> absent = {"--model", folder / "model", "--data", folder / "data"};
  const auto refused = [&](std::vector<std::string> command, const std::vector<std::string>& more,
                           const std::vector<std::string>& parts) {
    command.insert(command.end(), absent.begin(), absent.end());
    command.insert(command.end(), more.begin(), more.end());
    check_bad_input(1, command, parts);
  };
  const std::vector<std::string> train = {"train", "--output", folder / "out", "--steps", "2"};
  for (const char* shard : {"none", "optimizer"})
    for (const std::vector<std::string>& command :
         {train, std::vector<std::string>{"plan", "--dp", "2"}})
      refused(command, {"--shard", shard, "--reshard-after-forward", "off"},
              {"--reshard-after-forward off", "--shard full only"});
  for (const char* mode : {"every-0", "every-", "every-x"})
    refused(train, {"--activation-checkpointing", mode},
            {mode, "a whole number from 1 after \"every-\""});
  refused(train, {"--activation-checkpointing", "some"}, {"some", "selective"});
  refused(train, {"--epochs", "1"}, {"--steps 2", "--epochs 1", "one of them"});
  refused(train, {"--eval-every", "1"}, {"--eval-every 1", "--eval-data FILE"});
  refused(train, {"--value-eps-clip", "0.2"}, {"--value-eps-clip 0.2", "--loss critic"});
  refused(train, {"--dp", "3"}, {"dp 3", "1 were started"});
  BOOST_CHECK(!std::filesystem::exists(folder / "out"));
}
