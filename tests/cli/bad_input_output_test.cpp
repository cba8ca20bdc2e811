// Outputs that cannot be written, and surroundings that are unusual but fine.
#include <sys/stat.h>

#include "inputs.hpp"

using namespace archon;
using namespace archon::test;
namespace fs = std::filesystem;

namespace {

ProcessResult run_in_shell(const std::string& before, const std::vector<std::string>& arguments,
                           const std::map<std::string, std::string>& environment = {}) {
  std::vector<std::string> command = {"sh", "-c", before + "; exec \"$0\" \"$@\"",
                                      archon_program()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return run_process(command, environment);
}

}  // namespace

BOOST_AUTO_TEST_CASE(output_folders_that_cannot_be_written) {
  const Inputs inputs;
  // Root may write wherever there is a file system, so these are places where nobody can.
  for (const std::string& output : {inputs.data, inputs.data + "/below", std::string("/proc/none"),
                                    std::string("/proc/self/none")}) {
    check_bad_input(1, inputs.train({"--output", output}), {output, "name a folder"});
    check_bad_input(1, {"init", "--config", inputs.model + "/config.json", "--output", output},
                    {output, "name a folder"});
  }
  check_bad_input(4, inputs.train({"--output", inputs.data, "--cp", "2"}), {inputs.data});
}

BOOST_AUTO_TEST_CASE(a_new_model_does_not_replace_weights) {
  const Inputs inputs;
  const std::string before = read_bytes(inputs.weights);
  const std::vector<std::string> init = {"init", "--config", inputs.model + "/config.json",
                                         "--output", inputs.model};
  check_bad_input(1, init, {"--output " + inputs.model + " holds weights already"});
  BOOST_CHECK(read_bytes(inputs.weights) == before);
  std::filesystem::remove(inputs.weights);
  check_runs(1, init);
}

// All are open until the last is whole.
BOOST_AUTO_TEST_CASE(a_model_may_have_more_files_than_are_open_as_a_rule) {
  const Inputs inputs;
  const std::string output = inputs.folder / "many";
  const auto result = run_process(
      {"bash", "-c", "ulimit -S -n 16; exec \"$0\" \"$@\"", archon_program(), "init", "--config",
       inputs.model + "/config.json", "--output", output, "--max-shard-size", "1KB"});
  BOOST_CHECK_MESSAGE(result.exit_code == 0, result.err);
  BOOST_CHECK_GT(names_in(output).size(), 16u);
  check_runs(1, inputs.eval({"--model", output}));
}

BOOST_AUTO_TEST_CASE(output_files_that_cannot_be_written) {
  const Inputs inputs;
  for (const std::string& output :
       {inputs.folder / "none/out.h5", inputs.data + "/out.h5", inputs.model,
        std::string("/proc/none.h5"), std::string("/dev/full")}) {
    check_bad_input(1, inputs.forward({"--output", output}), {"cannot write " + output, "name a"});
    check_bad_input(1, inputs.train({"--record", output}), {"cannot write " + output, "name a"});
  }
  check_bad_input(4, inputs.forward({"--output", inputs.folder / "none/out.h5", "--cp", "2"}),
                  {"cannot write", "there is no folder"});
  check_bad_input(4, inputs.train({"--record", inputs.folder / "none/out.h5", "--cp", "2"}),
                  {"cannot write", "there is no folder"});
  BOOST_CHECK(!fs::exists(inputs.output + "/metrics.jsonl"));  // found before training
  BOOST_CHECK(fs::is_character_file("/dev/full"));
}

BOOST_AUTO_TEST_CASE(outputs_that_are_inputs) {
  const Inputs inputs;
  const std::string before = read_bytes(inputs.data), held_out = inputs.folder / "held_out.h5",
                    link = inputs.folder / "link.h5", files = inputs.folder / "files";
  fs::copy(inputs.data, held_out);
  fs::create_symlink(inputs.data, link);
  fs::create_directory(files);
  fs::copy(inputs.data, files + "/1.h5");
  const std::string part = "would be written into what is read";
  for (const std::string& output : {inputs.data, link}) {
    check_bad_input(1, inputs.forward({"--output", output}), {"--output " + output, part});
    check_bad_input(1, inputs.generate({"--output", output}), {"--output " + output, part});
    for (const char* option : {"--record", "--profile"})
      check_bad_input(1, inputs.train({option, output}), {option, output, part});
  }
  check_bad_input(2, inputs.train({"--record", held_out, "--eval-data", held_out}),
                  {"--record " + held_out, part});
  check_bad_input(1, inputs.train({"--data", files, "--record", files + "/record.h5"}),
                  {files + "/record.h5", part});
  check_bad_input(2, inputs.train({"--data", files, "--output", files}),
                  {"--output " + files + " is the folder --data"});
  check_bad_input(2, inputs.train({"--data", files, "--eval-data", files + "/1.h5", "--eval-every", "1"}),
                  {"--eval-data " + files + "/1.h5 lies in the folder --data"});
  BOOST_CHECK(read_bytes(inputs.data) == before);
  BOOST_CHECK(read_bytes(held_out) == before);
  check_bad_input(1, inputs.train({"--output", inputs.model}),
                  {"--output " + inputs.model, "is the folder of a model"});
  BOOST_CHECK(!fs::exists(inputs.model + "/metrics.jsonl"));
}

BOOST_AUTO_TEST_CASE(a_forward_that_is_refused_leaves_what_was_there) {
  const Inputs inputs;
  check_runs(1, inputs.forward());
  const std::string before = read_bytes(inputs.output);
  at::Tensor ids = h5::File::open(inputs.data).read("/input_ids", at::kLong);
  ids.mutable_data_ptr<int64_t>()[ids.numel() - 1] = 256;
  inputs.write_data(ids, h5::File::open(test_file("golden/q3_tiny/batch.h5")).read("/cu_seqlens"));
  check_bad_input(1, inputs.forward(), {"= 256"});
  BOOST_CHECK(read_bytes(inputs.output) == before);
  check_bad_input(1, inputs.forward({"--output", inputs.folder / "new.h5"}), {"= 256"});
  for (const char* name : {"new.h5", "new.h5.tmp", "out.tmp"})
    BOOST_CHECK_MESSAGE(!fs::exists(inputs.folder / name), name << " was left behind");
}

BOOST_AUTO_TEST_CASE(paths_with_blanks_and_other_letters) {
  const Inputs inputs;
  const std::string output = inputs.folder / "a run, Größe 1";
  check_runs(2, inputs.train({"--output", output, "--record", inputs.folder / "the record.h5"}));
  BOOST_CHECK(fs::exists(output + "/hf/model.safetensors"));
  check_runs(1, {"eval", "--model", output + "/hf", "--data", inputs.data});
  check_runs(1, {"inspect", inputs.folder / "the record.h5"});
}

BOOST_AUTO_TEST_CASE(unusual_surroundings) {
  const Inputs inputs;
  for (const char* before : {"unset HOME", "cd /proc", "umask 077", "unset HOME LANG USER TERM",
                             "export HOME=/proc LC_ALL=C", "export LC_ALL=no_SUCH.locale"}) {
    const auto result = run_in_shell(before, inputs.train());
    BOOST_CHECK_MESSAGE(result.exit_code == 0, before << ": " << result.err);
  }
  struct stat file;
  fs::remove_all(inputs.output);
  run_in_shell("umask 077", inputs.train());
  BOOST_REQUIRE_EQUAL(::stat((inputs.output + "/metrics.jsonl").c_str(), &file), 0);
  BOOST_CHECK_EQUAL(file.st_mode & 077, 0u);
}
