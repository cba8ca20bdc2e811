// diff, inspect, plugins: output and exit codes.
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <limits>

#include "archon/io/hdf5.hpp"
#include "archon/io/json.hpp"
#include "archon/io/safetensors.hpp"
#include "cli_support.hpp"

using namespace archon;
using namespace archon::test;

namespace {

// Two files that differ by 0.5 of 4 in /large and by 1e-3 in /small.
struct TwoFiles {
  TwoFiles() {
    write(a, 4.0, 1.0);
    write(b, 3.5, 1.001);
  }
  static void write(const std::string& path, double large, double small) {
    auto file = h5::File::create(path, "test", 1);
    file.write("/group/large", at::full({2, 3}, large, at::kFloat));
    file.write("/group/small", at::full({5}, small, at::kDouble));
    file.write("/same", at::arange(4, at::kLong));
    file.flush();
  }
  TemporaryFolder folder;
  std::string a = folder / "a.h5", b = folder / "b.h5";
};

void write_token_file(const std::string& path, int64_t last_offset) {
  auto file = h5::File::create(path, "tokens", 1);
  file.write("/input_ids", at::arange(10, at::kInt));
  file.write("/cu_seqlens", at::tensor(std::vector<int64_t>{0, 3, last_offset}));
  file.write("/loss_mask",
             at::tensor(std::vector<int64_t>{0, 1, 1, 0, 0, 1, 1, 1, 0, 0}).to(at::kByte));
  file.flush();
}

}  // namespace

BOOST_FIXTURE_TEST_CASE(diff_of_equal_files_exits_0, TwoFiles) {
  const auto result = run_archon({"diff", a, a});
  BOOST_CHECK_EQUAL(result.exit_code, 0);
  CHECK_CONTAINS(result.out, "passed: 3 datasets, 3 equal, 0 within");
}

BOOST_FIXTURE_TEST_CASE(diff_of_different_files_exits_1_and_shows_the_worst_first, TwoFiles) {
  const auto result = run_archon({"diff", a, b});
  BOOST_CHECK_EQUAL(result.exit_code, 1);
  CHECK_CONTAINS(result.out, "FAILED: 3 datasets, 1 equal, 0 within");
  CHECK_CONTAINS(result.out, "5.000e-01");
  const auto large = result.out.find("/group/large"), small = result.out.find("/group/small"),
             same = result.out.find("/same");
  BOOST_CHECK(large < small && small < same && same != std::string::npos);
}

BOOST_FIXTURE_TEST_CASE(diff_takes_bounds_and_patterns, TwoFiles) {
  BOOST_CHECK_EQUAL(run_archon({"diff", a, b, "--rtol", "0.2"}).exit_code, 0);
  BOOST_CHECK_EQUAL(run_archon({"diff", a, b, "--rtol=0", "--atol=0.6"}).exit_code, 0);
  BOOST_CHECK_EQUAL(run_archon({"diff", a, b, "--rtol=0", "--atol=0.4"}).exit_code, 1);
  BOOST_CHECK_EQUAL(run_archon({"diff", a, b, "--only", "/same"}).exit_code, 0);
  BOOST_CHECK_EQUAL(
      run_archon({"diff", a, b, "--ignore", "/group/large", "--ignore", "*small"}).exit_code, 0);
  BOOST_CHECK_EQUAL(run_archon({"diff", a, b, "--ignore", "*small"}).exit_code, 1);
}

BOOST_FIXTURE_TEST_CASE(diff_shows_as_many_passed_datasets_as_asked_for, TwoFiles) {
  const auto one = run_archon({"diff", a, a, "--rows", "1"}).out;
  BOOST_CHECK_NE(one.find("more that passed"), std::string::npos);
  const auto all = run_archon({"diff", a, a, "--rows", "0"}).out;
  BOOST_CHECK_EQUAL(all.find("more that passed"), std::string::npos);
  BOOST_CHECK_GT(all.size(), one.size());
}

BOOST_FIXTURE_TEST_CASE(diff_prints_json, TwoFiles) {
  const auto result = run_archon({"diff", "--json", a, b});
  BOOST_CHECK_EQUAL(result.exit_code, 1);
  const Json json = Json::parse(result.out);
  BOOST_CHECK(!json.at("passed").get<bool>());
  BOOST_CHECK_EQUAL(json.at("datasets").size(), 3u);
  BOOST_CHECK_EQUAL(json.at("datasets")[0].at("path").get<std::string>(), "/group/large");
  BOOST_CHECK_CLOSE(json.at("datasets")[0].at("max_rel").get<double>(), 0.125, 1e-6);
}

BOOST_FIXTURE_TEST_CASE(diff_prints_no_numbers_of_what_is_in_one_file_only, TwoFiles) {
  h5::File::create(b, "test", 1).write("/same", at::tensor({1.0}));
  const Json json = Json::parse(run_archon({"diff", "--json", a, b}).out);
  const Json& missing = json.at("datasets").at(0);
  BOOST_CHECK_EQUAL(missing.at("status").get<std::string>(), "NOT IN B");
  for (const char* number : {"max_abs", "max_rel", "at", "value_a", "value_b", "cosine"})
    BOOST_CHECK_MESSAGE(missing.at(number).is_null(), number << " is " << missing.at(number));
}

BOOST_FIXTURE_TEST_CASE(diff_takes_bounds_by_pattern, TwoFiles) {
  const std::string bounds = folder / "bounds.txt";
  write_bytes(bounds, "*/large 0.2  # a known difference\n*/small 1e-2 0\nother 1\n");
  const auto passed = run_archon({"diff", a, b, "--tolerances", bounds});
  BOOST_CHECK_EQUAL(passed.exit_code, 0);
  CHECK_CONTAINS(passed.out, "passed: 3 datasets, 1 equal, 2 within the bounds of " + bounds);
  CHECK_CONTAINS(passed.err, bounds + ": the pattern other decides about no dataset");
  write_bytes(bounds, "*/large 0.1 0.05\n");
  const auto failed = run_archon({"diff", a, b, "--tolerances", bounds, "--rtol", "0.01"});
  BOOST_CHECK_EQUAL(failed.exit_code, 1);
  CHECK_CONTAINS(failed.out, "4 in A, 3.5 in B; allowed: rtol 0.1, atol 0.05");
  CHECK_CONTAINS(failed.out, "1 equal, 1 within");
  const auto result = run_archon({"diff", a, b, "--json", "--tolerances", bounds});
  const Json large = Json::parse(result.out).at("datasets").at(0);
  BOOST_CHECK_EQUAL(large.at("rtol").get<double>(), 0.1);
  BOOST_CHECK_EQUAL(large.at("atol").get<double>(), 0.05);
  write_bytes(bounds, "*/large\n");
  check_refused(run_archon({"diff", a, b, "--tolerances", bounds}), {bounds + ", line 1: "});
  check_refused(run_archon({"diff", a, b, "--tolerances", folder / "none"}), {folder / "none"});
}

BOOST_FIXTURE_TEST_CASE(diff_prints_json_of_what_is_infinite_or_no_utf8, TwoFiles) {
  const auto write_x = [](const std::string& path, double value) {
    auto file = h5::File::create(path, "test", 1);
    file.write("x\xff", at::tensor(std::vector<double>{value, 0}));
    file.flush();
  };
  write_x(a, 1);
  write_x(b, std::numeric_limits<double>::infinity());
  const auto result = run_archon({"diff", "--json", a, b});
  BOOST_CHECK_EQUAL(result.exit_code, 1);
  const Json x = Json::parse(result.out).at("datasets").at(0);
  BOOST_CHECK(x.at("max_abs").is_null() && x.at("value_b").is_null());
  BOOST_CHECK_EQUAL(x.at("not_finite_b").get<int>(), 1);
}

BOOST_FIXTURE_TEST_CASE(diff_of_wrong_input_exits_2, TwoFiles) {
  check_refused(run_archon({"diff", a, folder / "none.h5"}), {folder / "none.h5"});
  write_bytes(folder / "text.h5", "no HDF5\n");
  check_refused(run_archon({"diff", folder / "text.h5", a}), {folder / "text.h5"});
  check_refused(run_archon({"diff", a, b, "--only", "/nothing"}), {"compare"});
  check_refused(run_archon({"diff", a, b, "--rtol", "-1"}), {"--rtol -1 must be"});
}

BOOST_FIXTURE_TEST_CASE(results_that_cannot_be_written_are_an_error, TwoFiles) {
  const auto result =
      run_process({"sh", "-c", "exec \"$0\" \"$@\" > /dev/full", archon_program(), "diff", a, a});
  BOOST_CHECK_EQUAL(result.exit_code, 3);
  CHECK_CONTAINS(result.err, "standard output");
}

BOOST_FIXTURE_TEST_CASE(local_commands_run_once_under_a_launcher, TwoFiles) {
  const auto result = run_archon_ranks(2, {"diff", a, a});
  BOOST_CHECK_EQUAL(result.exit_code, 0);
  const auto first = result.out.find("passed");
  BOOST_CHECK(first != std::string::npos &&
              result.out.find("passed", first + 1) == std::string::npos);
}

BOOST_AUTO_TEST_CASE(inspect_token_dataset) {
  const TemporaryFolder folder;
  write_token_file(folder / "tokens.h5", 10);
  const auto result = run_archon({"inspect", folder / "tokens.h5"});
  BOOST_CHECK_EQUAL(result.exit_code, 0);
  CHECK_CONTAINS(result.out, "token dataset: 2 sequences, 10 tokens, 5 targets, longest 7");
  CHECK_CONTAINS(result.out, "tokens\n");  // the schema
  CHECK_CONTAINS(result.out, "/input_ids   int32  [10]");
  write_token_file(folder / "damaged.h5", 9);
  CHECK_CONTAINS(run_archon({"inspect", folder / "damaged.h5"}).out,
                 "damaged: cu_seqlens does not run from 0 to 10");
}

BOOST_AUTO_TEST_CASE(inspect_golden) {
  const std::string golden = test_file("golden/q2_critic/golden.h5");
  const auto result = run_archon({"inspect", golden});
  BOOST_CHECK_EQUAL(result.exit_code, 0);
  CHECK_CONTAINS(result.out, golden + ": HDF5 file");
  CHECK_CONTAINS(result.out, "/values ");
}

BOOST_AUTO_TEST_CASE(inspect_model_folder_and_safetensors) {
  const TemporaryFolder folder;
  write_safetensors_folder(
      folder.path(), {{"a.weight", at::kBFloat16, {2, 3}}, {"b.bias", at::kFloat, {5}}}, 1 << 20,
      [](const SafetensorsSpec& spec) { return at::full(spec.shape, 1, spec.dtype); }, true);
  check_refused(run_archon({"inspect", folder.path()}), {"holds no config.json"});
  write_bytes(folder / "config.json", R"({"model_type": "qwen3", "hidden_size": 48})");
  for (const std::string& path : {folder.path(), folder / "model.safetensors"}) {
    const auto result = run_archon({"inspect", path});
    BOOST_CHECK_EQUAL(result.exit_code, 0);
    CHECK_CONTAINS(result.out, "11 parameters in 2 tensors");
    CHECK_CONTAINS(result.out, "a.weight  bfloat16  [2, 3]");
  }
  CHECK_CONTAINS(run_archon({"inspect", folder.path()}).out, "hidden_size  48");
}

BOOST_AUTO_TEST_CASE(inspect_refuses_what_it_does_not_know) {
  const TemporaryFolder folder;
  const std::string file = folder / "notes.txt";
  check_refused(run_archon({"inspect", file}), {file + " does not exist"});
  write_bytes(file, "text");
  check_refused(run_archon({"inspect", file}), {file + " is neither"});
  write_bytes(folder / "cut.h5", "\x89HDF\r\n\x1a\n and no more");
  check_refused(run_archon({"inspect", folder / "cut.h5"}), {"cut.h5"});
  write_bytes(folder / "cut.safetensors", "abc");
  check_refused(run_archon({"inspect", folder / "cut.safetensors"}), {"cut.safetensors"});
}

BOOST_AUTO_TEST_CASE(plugins_are_listed) {
  const auto result = run_archon({"plugins", "--plugin", ARCHON_TEST_TOY_PLUGIN});
  BOOST_CHECK_EQUAL(result.exit_code, 0);
  CHECK_CONTAINS(result.out, "toy_model   toy     7.5      ");
  CHECK_CONTAINS(result.out, "qwen2 ");
  CHECK_CONTAINS(result.out, "qwen3 ");
  CHECK_CONTAINS(result.out, "arithmetic  arithmetic  1.0      ");
  check_refused(run_archon({"plugins", "--plugin", "/no/such.so"}), {"/no/such.so"});
}
