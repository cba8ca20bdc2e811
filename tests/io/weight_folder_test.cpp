// HuggingFace folders of weights, read and written.
#include <sys/stat.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <filesystem>
#include <set>

#include "archon/base/error.hpp"
#include "archon/io/json.hpp"
#include "archon/io/safetensors.hpp"
#include "support/temporary_folder.hpp"

namespace archon {
namespace {

namespace fs = std::filesystem;
using test::mentions;
using test::TemporaryFolder;

constexpr int64_t kNoLimit = INT64_MAX;
constexpr const char* kIndex = "model.safetensors.index.json";

std::set<std::string> files_in(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& item : fs::directory_iterator(folder))
    names.insert(item.path().filename().string());
  return names;
}

/// Every tensor counts up from its number of letters.
at::Tensor tensor_of(const SafetensorsSpec& spec) {
  int64_t elements = 1;
  for (const int64_t size : spec.shape) elements *= size;
  return at::arange(elements, at::kDouble)
      .add(static_cast<double>(spec.name.size()))
      .to(spec.dtype)
      .reshape(spec.shape);
}

const std::vector<SafetensorsSpec> kSpecs{
    {"model.embed", at::kFloat, {5, 3}}, {"b", at::kBFloat16, {3}},
    {"scalar", at::kLong, {}},           {"none", at::kHalf, {0, 2}},
    {"flags.x", at::kBool, {7}},         {"last", at::kDouble, {2, 2}}};

void check_holds_specs(const WeightFolder& weights) {
  BOOST_TEST(weights.names().size() == kSpecs.size());
  for (const SafetensorsSpec& spec : kSpecs) {
    BOOST_TEST_CONTEXT(spec.name) {
      BOOST_TEST(weights.has(spec.name));
      BOOST_TEST((weights.entry(spec.name).dtype == spec.dtype));
      BOOST_TEST(at::equal(weights.view(spec.name), tensor_of(spec)));
    }
  }
}

void write_file(const std::string& path, const std::string& tensor) {
  const TemporaryFolder folder;
  write_safetensors_folder(folder.path(), {{tensor, at::kFloat, {2}}}, kNoLimit, tensor_of, true);
  fs::copy_file(folder / "model.safetensors", path);
}

BOOST_AUTO_TEST_CASE(one_file_makes_the_round_trip) {
  const TemporaryFolder folder;
  write_safetensors_folder(folder / "new/model", kSpecs, kNoLimit, tensor_of, true);
  BOOST_TEST(files_in(folder / "new/model") == std::set<std::string>{"model.safetensors"},
             boost::test_tools::per_element());
  check_holds_specs(WeightFolder(folder / "new/model"));

  const std::string bytes = test::read_bytes(folder / "new/model/model.safetensors");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  BOOST_TEST(length % 8 == 0u);
  BOOST_TEST(Json::parse(bytes.substr(8, length))["__metadata__"].dump() == R"({"format":"pt"})");
}

BOOST_AUTO_TEST_CASE(a_model_without_tensors_is_a_file_too) {
  const TemporaryFolder folder;
  write_safetensors_folder(folder.path(), {}, kNoLimit, tensor_of, true);
  BOOST_TEST(WeightFolder(folder.path()).names().empty());
}

BOOST_AUTO_TEST_CASE(many_files_make_the_round_trip) {
  const TemporaryFolder folder;
  // 60, 6, 8, 0, 7 and 32 bytes
  write_safetensors_folder(folder.path(), kSpecs, 21, tensor_of, true);
  const std::set<std::string> expected{"model-00001-of-00003.safetensors",
                                       "model-00002-of-00003.safetensors",
                                       "model-00003-of-00003.safetensors", kIndex};
  BOOST_TEST(files_in(folder.path()) == expected, boost::test_tools::per_element());
  check_holds_specs(WeightFolder(folder.path()));
  const Json index = read_json_file(folder / kIndex);
  BOOST_TEST(index["metadata"]["total_size"].get<int64_t>() == 113);
  BOOST_TEST(index["weight_map"].size() == kSpecs.size());
  BOOST_TEST(index["weight_map"]["flags.x"].get<std::string>() ==
             "model-00002-of-00003.safetensors");
}

BOOST_AUTO_TEST_CASE(a_later_save_replaces_all_of_an_earlier_one) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "config.json", "{}");
  test::write_bytes(folder / "model-notes.safetensors", "of the user");
  for (const int64_t limit : {int64_t{1}, int64_t{21}, kNoLimit, int64_t{21}, int64_t{21}}) {
    write_safetensors_folder(folder.path(), kSpecs, limit, tensor_of, true);
    check_holds_specs(WeightFolder(folder.path()));
  }
  BOOST_TEST(files_in(folder.path()).size() == 4u + 2u);
  write_safetensors_folder(folder.path(), kSpecs, kNoLimit, tensor_of, true);
  const std::set<std::string> expected{"config.json", "model-notes.safetensors",
                                       "model.safetensors"};
  BOOST_TEST(files_in(folder.path()) == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_save_that_fails_leaves_the_earlier_one) {
  const TemporaryFolder folder;
  write_safetensors_folder(folder.path(), kSpecs, 21, tensor_of, true);
  const auto before = files_in(folder.path());
  const auto breaks = [](const SafetensorsSpec& spec) -> at::Tensor {
    if (spec.name == "last") throw RuntimeFailure("broken");
    return tensor_of(spec);
  };
  for (const int64_t limit : {int64_t{21}, kNoLimit})
    BOOST_CHECK_THROW(write_safetensors_folder(folder.path(), kSpecs, limit, breaks, true),
                      RuntimeFailure);
  BOOST_TEST(files_in(folder.path()) == before, boost::test_tools::per_element());
  check_holds_specs(WeightFolder(folder.path()));
}

BOOST_AUTO_TEST_CASE(tensors_are_produced_in_order_everywhere_and_written_by_one) {
  const TemporaryFolder folder;
  for (const bool write : {false, true}) {
    std::vector<std::string> order, expected;
    for (const SafetensorsSpec& spec : kSpecs) expected.push_back(spec.name);
    const auto produce = [&](const SafetensorsSpec& spec) {
      order.push_back(spec.name);
      return tensor_of(spec);
    };
    write_safetensors_folder(folder / "model", kSpecs, 21, produce, write);
    BOOST_TEST(order == expected, boost::test_tools::per_element());
    BOOST_TEST(fs::exists(folder / "model") == write);
  }
}

BOOST_AUTO_TEST_CASE(what_is_written_must_be_what_was_announced) {
  const TemporaryFolder folder;
  const auto write = [&](const std::vector<SafetensorsSpec>& specs, const at::Tensor& tensor) {
    write_safetensors_folder(
        folder.path(), specs, kNoLimit, [&](const auto&) { return tensor; }, true);
  };
  const SafetensorsSpec spec{"x", at::kFloat, {2, 3}};
  BOOST_CHECK_EXCEPTION(write({spec}, at::ones({3, 2})), RuntimeFailure,
                        mentions("x came as Float [3, 2]", "Float [2, 3]"));
  BOOST_CHECK_EXCEPTION(write({spec}, at::ones({2, 3}, at::kHalf)), RuntimeFailure,
                        mentions("x came as Half"));
  BOOST_CHECK_EXCEPTION(write({spec, spec}, at::ones({2, 3})), RuntimeFailure,
                        mentions("two tensors", "x"));
  BOOST_CHECK_EXCEPTION(write({{"__metadata__", at::kFloat, {1}}}, at::ones({1})), RuntimeFailure,
                        mentions("__metadata__"));
  BOOST_CHECK_EXCEPTION(write({{"x", at::kUInt32, {1}}}, at::ones({1})), RuntimeFailure,
                        mentions("UInt32"));
  BOOST_TEST(fs::is_empty(folder.path()));
  write({spec}, at::arange(6, at::kFloat).reshape({3, 2}).t());  // not contiguous
  BOOST_TEST(WeightFolder(folder.path()).view("x")[0][1].item<float>() == 2);
}

BOOST_AUTO_TEST_CASE(a_disk_that_refuses_is_reported) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "file", "");
  BOOST_CHECK_EXCEPTION(
      write_safetensors_folder(folder / "file/sub", kSpecs, kNoLimit, tensor_of, true),
      RuntimeFailure, mentions("file/sub", "Not a directory"));
  BOOST_CHECK_EXCEPTION(write_safetensors_folder("/proc", kSpecs, kNoLimit, tensor_of, true),
                        RuntimeFailure, mentions("/proc/model.safetensors"));
}

BOOST_AUTO_TEST_CASE(weights_have_the_mode_that_the_user_wants) {
  const TemporaryFolder folder;
  const mode_t before = ::umask(007);
  write_safetensors_folder(folder.path(), kSpecs, kNoLimit, tensor_of, true);
  ::umask(before);
  struct stat status {};
  BOOST_REQUIRE(::stat((folder / "model.safetensors").c_str(), &status) == 0);
  BOOST_TEST((status.st_mode & 0777) == 0660u);
}

BOOST_AUTO_TEST_CASE(a_folder_without_weights_is_refused) {
  const TemporaryFolder folder;
  BOOST_CHECK_EXCEPTION(WeightFolder(folder.path()), InputError,
                        mentions(folder.path(), "model.safetensors", kIndex));
  BOOST_CHECK_EXCEPTION(WeightFolder(folder / "absent"), InputError, mentions("absent"));
}

BOOST_AUTO_TEST_CASE(a_whole_file_goes_before_an_index) {
  const TemporaryFolder folder;
  write_file(folder / "model.safetensors", "whole");
  test::write_bytes(folder / kIndex, "not even JSON");
  BOOST_TEST(WeightFolder(folder.path()).names().front() == "whole");
}

BOOST_AUTO_TEST_CASE(tensors_beyond_the_index_are_offered) {
  const TemporaryFolder folder;
  write_file(folder / "a", "x");
  write_file(folder / "b", "y");
  test::write_bytes(folder / kIndex, R"({"weight_map":{"y":"b"}})");
  BOOST_TEST(WeightFolder(folder.path()).names().size() == 1u);  // "a" is not named at all
  fs::remove(folder / "b");
  const std::vector<SafetensorsSpec> both{{"y", at::kFloat, {2}}, {"z", at::kFloat, {2}}};
  const TemporaryFolder other;
  write_safetensors_folder(other.path(), both, kNoLimit, tensor_of, true);
  fs::copy_file(other / "model.safetensors", folder / "b");
  BOOST_TEST(WeightFolder(folder.path()).has("z"));
}

BOOST_AUTO_TEST_CASE(wrong_indices_are_refused) {
  const TemporaryFolder folder;
  write_file(folder / "a", "x");
  fs::create_directory(folder / "sub");
  write_file(folder / "sub/a", "x");
  const auto check = [&](const std::string& index, auto... words) {
    test::write_bytes(folder / kIndex, index);
    BOOST_CHECK_EXCEPTION(WeightFolder(folder.path()), InputError, mentions(words...));
  };
  check("{", kIndex, "not valid JSON");
  check("[]", kIndex, "weight_map");
  check("{}", kIndex, "weight_map");
  check(R"({"weight_map":[]})", kIndex, "weight_map");
  check(R"({"weight_map":{"x":1}})", kIndex, "file of x");
  check(R"({"weight_map":{"x":"absent"}})", "/absent", "No such file");
  check(R"({"weight_map":{"y":"a"}})", kIndex, "y is in a");
  for (const std::string name : {"../a", "sub/a", "/etc/passwd", "", "..", "."})
    check(R"({"weight_map":{"x":")" + name + "\"}}", kIndex, "x should be in", name);
  test::write_bytes(folder / kIndex, R"({"weight_map":{"x":"a"}})");
  const WeightFolder good(folder.path());
  BOOST_CHECK_EXCEPTION(good.view("y"), InputError, mentions("no tensor y"));
  BOOST_CHECK_EXCEPTION(good.entry("y"), InputError, mentions("no tensor y"));
}

}  // namespace
}  // namespace archon
