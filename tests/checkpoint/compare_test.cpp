// Comparison of files: what passes, what does not, and where the difference is.
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>
#include <limits>

#include "archon/base/error.hpp"
#include "archon/checkpoint/compare.hpp"
#include "archon/io/hdf5.hpp"
#include "archon/io/safetensors.hpp"
#include "support/temporary_folder.hpp"

namespace archon {
namespace {

using Status = DatasetDifference::Status;
using test::mentions;
using test::TemporaryFolder;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// Two files of one dataset each, compared.
DatasetDifference compare(const at::Tensor& a, const at::Tensor& b, CompareOptions options = {}) {
  const TemporaryFolder folder;
  h5::File::create(folder / "a.h5", "test", 1).write("x", a);
  h5::File::create(folder / "b.h5", "test", 1).write("x", b);
  const Comparison result = compare_files(folder / "a.h5", folder / "b.h5", options);
  BOOST_REQUIRE(result.datasets.size() == 1u);
  const Status status = result.datasets[0].status;
  BOOST_TEST(result.passed == (status == Status::equal || status == Status::within));
  return result.datasets[0];
}

at::Tensor doubles(std::initializer_list<double> values) {
  return at::tensor(std::vector<double>(values), at::kDouble);
}

void check_where(const DatasetDifference& found, const std::vector<int64_t>& expected) {
  BOOST_TEST(found.where == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_golden_equals_itself) {
  const std::string golden = test::test_file("golden/q3_tiny/golden.h5");
  const Comparison result = compare_files(golden, golden, {.rtol = 0, .atol = 0});
  BOOST_TEST(result.passed);
  BOOST_TEST(result.datasets.size() > 100u);
  for (const DatasetDifference& dataset : result.datasets)
    BOOST_TEST((dataset.status == Status::equal), dataset.path);
}

BOOST_AUTO_TEST_CASE(a_perturbed_golden_fails_where_it_was_touched) {
  const TemporaryFolder folder;
  const std::string golden = test::test_file("golden/q3_tiny/golden.h5");
  std::filesystem::copy_file(golden, folder / "b.h5");
  {
    const h5::Handle file(H5Fopen((folder / "b.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT));
    const h5::Handle dataset(H5Dopen2(file.get(), "/final_norm", H5P_DEFAULT));
    at::Tensor values = h5::File::open(golden).read("final_norm");
    values[17][5] += 0.5;
    H5Dwrite(dataset.get(), H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT,
             values.const_data_ptr());
  }
  const Comparison result = compare_files(golden, folder / "b.h5", {});
  BOOST_TEST(!result.passed);
  for (const DatasetDifference& dataset : result.datasets) {
    const bool touched = dataset.path == "/final_norm";
    BOOST_TEST((dataset.status == (touched ? Status::differs : Status::equal)), dataset.path);
    if (!touched) continue;
    check_where(dataset, {17, 5});
    BOOST_TEST(std::abs(dataset.max_abs - 0.5) < 1e-6);
  }
  BOOST_TEST(compare_files(golden, folder / "b.h5", {.ignore = {"final_*"}}).passed);
  BOOST_TEST(!compare_files(golden, folder / "b.h5", {.only = {"/final_norm"}}).passed);
}

BOOST_AUTO_TEST_CASE(the_tolerance_is_relative_to_the_largest_magnitude_of_a) {
  const at::Tensor a = doubles({-100, 0, 1}), b = doubles({-100, 0.5, 1});
  BOOST_TEST((compare(a, b, {.rtol = 0.0051, .atol = 0}).status == Status::within));
  BOOST_TEST((compare(a, b, {.rtol = 0.0049, .atol = 0}).status == Status::differs));
  BOOST_TEST((compare(a, b, {.rtol = 0.0049, .atol = 0.02}).status == Status::within));
  BOOST_TEST((compare(a, b, {.rtol = 0.005, .atol = 0}).status == Status::within));  // not more
  const DatasetDifference found = compare(a, b);
  BOOST_TEST(found.max_abs == 0.5);
  BOOST_TEST(found.max_rel == 0.005);
  check_where(found, {1});
  const double cosine = 10001 / std::sqrt(10001 * 10001.25);
  BOOST_TEST(std::abs(found.cosine - cosine) < 1e-12);
  // the measure is A's: small in A, large in B
  BOOST_TEST((compare(doubles({1, 0}), doubles({1000, 0}), {.rtol = 1}).status == Status::differs));
  BOOST_TEST((compare(doubles({1000, 0}), doubles({1, 0}), {.rtol = 1}).status == Status::within));
}

BOOST_AUTO_TEST_CASE(the_first_pattern_that_matches_gives_the_bounds) {
  const TemporaryFolder folder;
  const auto write = [&](const char* name, double value) {
    h5::File file = h5::File::create(folder / name, "test", 1);
    for (const char* dataset : {"loss", "g/norm.weight", "g/proj.weight"})
      file.write(dataset, doubles({1, value}));
  };
  write("a.h5", 1);
  write("b.h5", 1.25);
  const auto run = [&](std::vector<Tolerance> tolerances) {
    return compare_files(folder / "a.h5", folder / "b.h5",
                         {.rtol = 0.2, .atol = 0.1, .tolerances = std::move(tolerances)});
  };
  const Comparison result = run({{"g/norm*", 0.125, 0.0625},  // less than 0.25
                                 {"/g/*", 0.125},             // and --atol makes less than 0.25
                                 {"*norm*", 1},               // too late
                                 {"nowhere", 1}});
  BOOST_REQUIRE(result.datasets.size() == 3u);
  const auto check = [&](const DatasetDifference& found, Status status, double rtol, double atol) {
    BOOST_TEST((found.status == status), found.path);
    BOOST_TEST(found.rtol == rtol);
    BOOST_TEST(found.atol == atol);
    BOOST_TEST(found.value_a == 1);
    BOOST_TEST(found.value_b == 1.25);
  };
  check(result.datasets[0], Status::differs, 0.125, 0.0625);
  check(result.datasets[1], Status::differs, 0.125, 0.1);
  check(result.datasets[2], Status::within, 0.2, 0.1);
  BOOST_TEST(!result.passed);
  const std::vector<std::string> unused{"*norm*", "nowhere"};
  BOOST_TEST(result.unused_patterns == unused, boost::test_tools::per_element());
  BOOST_TEST(run({{"g/*", 0.25}}).passed);
  BOOST_TEST(!run({{"g/*", 0.125}, {"g/*", 0.25}}).passed);
  BOOST_CHECK_EXCEPTION(run({{"g/*", -1}}), InputError, mentions("tolerances"));
}

BOOST_AUTO_TEST_CASE(tolerances_are_read_from_a_file) {
  const TemporaryFolder folder;
  const std::string file = folder / "tolerances.txt";
  test::write_bytes(file, "# bounds\n\n*/gradients/* 1e-4\n  a#b\t0.5 2e-6 # why\r\n* 0 0");
  const std::vector<Tolerance> found = read_tolerances(file);
  BOOST_REQUIRE(found.size() == 3u);
  BOOST_TEST(found[0].pattern == "*/gradients/*");
  BOOST_TEST(found[0].rtol == 1e-4);
  BOOST_TEST(!found[0].atol.has_value());
  BOOST_TEST(found[1].pattern == "a#b");
  BOOST_TEST(found[1].rtol == 0.5);
  BOOST_TEST(found[1].atol.value() == 2e-6);
  BOOST_TEST(found[2].atol.value() == 0);
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"a", "1 words"},      {"a 1 2 3", "4 words"},    {"a # 1", "1 words"},
      {"a x", "rtol \"x\""}, {"a 1 -2", "atol \"-2\""}, {"a inf", "rtol \"inf\""},
      {"a nan", "\"nan\""},  {"a 1e", "\"1e\""},        {"a 1e999", "\"1e999\""}};
  for (const auto& [line, reason] : bad) {
    test::write_bytes(file, "# first\nb 1\n" + line + "\n");
    BOOST_CHECK_EXCEPTION(read_tolerances(file), InputError,
                          mentions("tolerances.txt, line 3", reason));
  }
  BOOST_CHECK_EXCEPTION(read_tolerances(folder / "absent"), InputError, mentions("absent"));
}

/// A file of `rows` tokens of which the offsets mark `tokens` (none without), and a weight that
/// has as many rows.
void write_packed(const std::string& path, int64_t rows, std::optional<int64_t> tokens,
                  double padding) {
  h5::File file = h5::File::create(path, "test", 1);
  if (tokens) file.write("cu_seqlens", at::tensor(std::vector<int64_t>{0, 2, *tokens}));
  at::Tensor values = at::ones({rows, 3}, at::kFloat);
  values.narrow(0, 5, rows - 5).fill_(padding);
  file.write("hidden/1", values);
  file.write("logprobs", values.select(1, 0));
  file.write("sft/grads/weight", at::ones({rows, 3}));
}

BOOST_AUTO_TEST_CASE(padding_behind_the_last_offset_is_left_out) {
  const TemporaryFolder folder;
  const std::string a = folder / "a.h5", b = folder / "b.h5";
  const auto passed = [&] { return compare_files(a, b, {.ignore = {"cu_seqlens"}}).passed; };
  write_packed(a, 8, 5, kNan);
  write_packed(b, 8, 5, 7);
  BOOST_TEST(passed());
  const Comparison result = compare_files(a, b, {.only = {"hidden/1", "sft/*"}});
  BOOST_TEST(result.datasets[0].detail == "rows of padding left out: 3");
  BOOST_TEST(result.datasets[0].not_finite_a == 0);
  BOOST_TEST(result.datasets[1].detail == "");  // no token dataset
  write_packed(b, 8, {}, 7);                    // marked in A only
  BOOST_TEST(passed());
  write_packed(b, 5, 5, 7);  // without padding in B
  BOOST_TEST(!passed());     // by the weight's shape
  BOOST_TEST(compare_files(a, b, {.ignore = {"sft/*"}}).passed);
  write_packed(b, 8, 6, 7);  // other offsets
  BOOST_TEST(!passed());
  write_packed(b, 8, 8, 7);  // no padding: all is compared
  write_packed(a, 8, 8, kNan);
  BOOST_TEST(!passed());
  write_packed(a, 8, {}, kNan);
  write_packed(b, 8, {}, 7);
  BOOST_TEST(!passed());
  write_packed(a, 8, 9, 7);  // no such row
  BOOST_TEST(passed());
}

BOOST_AUTO_TEST_CASE(differences_in_rows_that_are_no_padding_are_found) {
  const TemporaryFolder folder;
  for (const auto& [name, value] : {std::pair{"a.h5", 1.0}, {"b.h5", 2.0}}) {
    h5::File file = h5::File::create(folder / name, "test", 1);
    file.write("cu_seqlens", at::tensor(std::vector<int64_t>{0, 4}));
    file.write("logprobs", doubles({0, 1, 1, value, 9 * value}));
  }
  const Comparison result = compare_files(folder / "a.h5", folder / "b.h5", {});
  BOOST_TEST(!result.passed);
  BOOST_TEST(result.datasets.at(1).max_rel == 1);
  check_where(result.datasets.at(1), {3});
}

BOOST_AUTO_TEST_CASE(equal_is_told_from_within) {
  const at::Tensor a = doubles({1, 2});
  BOOST_TEST((compare(a, a, {.rtol = 0, .atol = 0}).status == Status::equal));
  const DatasetDifference found = compare(a, doubles({1, 2 + 1e-9}));
  BOOST_TEST((found.status == Status::within));
  check_where(found, {1});
  BOOST_TEST((compare(doubles({0.0}), doubles({-0.0})).status == Status::equal));
}

BOOST_AUTO_TEST_CASE(numbers_that_are_not_finite_equal_only_their_like) {
  const at::Tensor a = doubles({kNan, kInfinity, -kInfinity, 4});
  const DatasetDifference same = compare(a, a.clone());
  BOOST_TEST((same.status == Status::equal));
  BOOST_TEST(same.not_finite_a == 3);
  BOOST_TEST(same.not_finite_b == 3);
  const CompareOptions generous{.rtol = 1e300, .atol = 1e300};
  for (const double other : {0.0, kInfinity, -kInfinity, kNan}) {
    const DatasetDifference found = compare(doubles({1, 2}), doubles({1, other}), generous);
    BOOST_TEST((found.status == Status::differs) == !std::isfinite(other));
    BOOST_TEST(found.not_finite_b == (std::isfinite(other) ? 0 : 1));
    check_where(found, {1});
  }
  BOOST_TEST(
      (compare(doubles({kInfinity}), doubles({-kInfinity}), generous).status == Status::differs));
  BOOST_TEST((compare(doubles({kNan}), doubles({kInfinity}), generous).status == Status::differs));
  // an infinity in A does not make the tolerance infinite
  const DatasetDifference found = compare(doubles({kInfinity, 1, 1}), doubles({kInfinity, 1, 2}));
  BOOST_TEST((found.status == Status::differs));
  BOOST_TEST(found.max_rel == 1);
  // the first one that is not finite is shown, whatever differs before it
  check_where(compare(doubles({1, 1, 1, 1}), doubles({9, kNan, 1, kNan})), {1});
}

BOOST_AUTO_TEST_CASE(scalars_and_empty_datasets_are_compared) {
  const auto scalar = [](double value) { return at::full({}, value, at::kDouble); };
  BOOST_TEST((compare(scalar(1), scalar(1)).status == Status::equal));
  const DatasetDifference found = compare(scalar(1), scalar(2));
  BOOST_TEST((found.status == Status::differs));
  BOOST_TEST(found.where.empty());
  const at::Tensor empty = at::empty({0, 3}, at::kFloat);
  BOOST_TEST((compare(empty, empty).status == Status::equal));
  BOOST_TEST((compare(empty, at::empty({0, 4}, at::kFloat)).status == Status::shape));
  BOOST_TEST((compare(at::empty({2, 0}), at::empty({2, 0})).status == Status::equal));
  BOOST_TEST(compare(doubles({0, 0}), doubles({0, 1})).max_rel == kInfinity);
  BOOST_TEST(compare(doubles({0, 0}), doubles({0, 1})).cosine == 0);
}

BOOST_AUTO_TEST_CASE(types_may_differ_as_long_as_they_are_numbers) {
  const at::Tensor numbers = at::arange(6, at::kLong).reshape({2, 3});
  for (const at::ScalarType type : {at::kInt, at::kFloat, at::kDouble, at::kHalf, at::kByte})
    BOOST_TEST((compare(numbers, numbers.to(type)).status == Status::equal));
  BOOST_TEST((compare(numbers.to(at::kBool), numbers.to(at::kBool)).status == Status::equal));
}

BOOST_AUTO_TEST_CASE(large_integers_are_told_apart) {
  const at::Tensor a = at::full({3}, (int64_t{1} << 60), at::kLong);
  at::Tensor b = a.clone();
  b[2] += 1;
  const DatasetDifference found = compare(a, b, {.rtol = 0, .atol = 0});
  BOOST_TEST((found.status == Status::differs));
  BOOST_TEST(found.max_abs == 1);
  check_where(found, {2});
  const at::Tensor large = at::full({1}, int64_t{-1}, at::kLong).view(at::kUInt64);  // 2^64 - 1
  BOOST_TEST((compare(large, large).status == Status::equal));
}

BOOST_AUTO_TEST_CASE(large_datasets_are_compared_over_many_blocks) {
  const at::Tensor a = at::ones({3000, 1000}, at::kFloat);
  at::Tensor b = a.clone();
  b[1048][1] = 2;
  b[2999][999] = 4;
  check_where(compare(a, b), {2999, 999});
  b[2999][999] = 1;
  check_where(compare(a, b), {1048, 1});
  at::Tensor wide = at::zeros({2, 1500000}, at::kFloat);  // a row is larger than a block
  const at::Tensor zeros = wide.clone();
  wide[1][1400000] = 1;
  check_where(compare(zeros, wide), {1, 1400000});
}

BOOST_AUTO_TEST_CASE(missing_datasets_and_shapes_fail) {
  const TemporaryFolder folder;
  {
    h5::File a = h5::File::create(folder / "a.h5", "test", 1);
    h5::File b = h5::File::create(folder / "b.h5", "test", 1);
    a.write("g/only_a", at::ones({2}));
    b.write("g/only_b", at::ones({2}));
    a.write("shape", at::ones({2, 3}));
    b.write("shape", at::ones({3, 2}));
    a.write_scalar("same", 1);
    b.write_scalar("same", 1);
  }
  const Comparison result = compare_files(folder / "a.h5", folder / "b.h5", {});
  BOOST_TEST(!result.passed);
  BOOST_REQUIRE(result.datasets.size() == 4u);
  BOOST_TEST(result.datasets[0].path == "/g/only_a");
  BOOST_TEST((result.datasets[0].status == Status::missing_in_b));
  BOOST_TEST((result.datasets[1].status == Status::missing_in_a));
  BOOST_TEST((result.datasets[2].status == Status::equal));
  BOOST_TEST((result.datasets[3].status == Status::shape));
  BOOST_TEST(result.datasets[3].detail == "A: [2, 3], B: [3, 2]");
  const CompareOptions options{.only = {"g/*", "same"}, .ignore = {"*only*"}};
  const Comparison filtered = compare_files(folder / "a.h5", folder / "b.h5", options);
  BOOST_TEST(filtered.passed);
  BOOST_TEST(filtered.datasets.size() == 1u);
  for (const char* missing : {"g/only_a", "g/only_b", "shape"})
    BOOST_TEST(!compare_files(folder / "a.h5", folder / "b.h5", {.only = {missing}}).passed);
}

BOOST_AUTO_TEST_CASE(strings_are_left_out) {
  const TemporaryFolder folder;
  const auto make = [&](const char* name, const char* text, const char* number) {
    h5::File::create(folder / name, "test", 1).write_scalar(number, 1);
    const h5::Handle file(H5Fopen((folder / name).c_str(), H5F_ACC_RDWR, H5P_DEFAULT));
    const h5::Handle space(H5Screate(H5S_SCALAR));
    const h5::Handle dataset(
        H5Dcreate2(file.get(), text, H5T_C_S1, space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    BOOST_REQUIRE(dataset.get() >= 0);
  };
  make("a.h5", "text", "x");
  make("b.h5", "other", "x");
  make("c.h5", "x", "text");
  const Comparison result = compare_files(folder / "a.h5", folder / "b.h5", {});
  BOOST_TEST(result.passed);
  BOOST_TEST(result.datasets.size() == 1u);
  const Comparison mixed = compare_files(folder / "a.h5", folder / "c.h5", {});
  BOOST_TEST(!mixed.passed);
  BOOST_TEST((mixed.datasets.at(0).status == Status::type));
  BOOST_TEST(mixed.datasets.at(0).detail == "A: not numbers, B: Double");
}

BOOST_AUTO_TEST_CASE(weights_of_two_folders_are_compared) {
  const TemporaryFolder folder;
  const std::vector<SafetensorsSpec> specs{{"x", at::kFloat, {4, 2}}, {"s", at::kBFloat16, {}}};
  const auto write = [&](const char* name, int64_t limit, double value) {
    const auto produce = [&](const SafetensorsSpec& spec) {
      at::Tensor tensor = at::ones(spec.shape, spec.dtype);
      if (spec.name == "x") tensor[3][1] = value;
      return tensor;
    };
    write_safetensors_folder(folder / name, specs, limit, produce, true);
  };
  write("a", INT64_MAX, 1);
  write("b", 1, 1);
  write("c", INT64_MAX, 2);
  BOOST_TEST(compare_files(folder / "a", folder / "b", {}).passed);
  const Comparison result = compare_files(folder / "a", folder / "c", {});
  BOOST_TEST(!result.passed);
  BOOST_REQUIRE(result.datasets.size() == 2u);
  BOOST_TEST((result.datasets[0].status == Status::equal));
  BOOST_TEST(result.datasets[1].path == "x");
  check_where(result.datasets[1], {3, 1});
}

BOOST_AUTO_TEST_CASE(what_cannot_be_compared_is_refused) {
  const TemporaryFolder folder;
  h5::File::create(folder / "a.h5", "test", 1).write_scalar("x", 1);
  h5::File::create(folder / "empty.h5", "test", 1);
  test::write_bytes(folder / "text", "text");
  const std::string a = folder / "a.h5";
  BOOST_CHECK_EXCEPTION(compare_files(a, folder / "absent", {}), InputError, mentions("absent"));
  BOOST_CHECK_EXCEPTION(compare_files(folder / "text", a, {}), InputError, mentions("text"));
  BOOST_CHECK_EXCEPTION(compare_files(a, folder.path(), {}), InputError, mentions(folder.path()));
  BOOST_CHECK_EXCEPTION(compare_files(a, a, {.only = {"y"}}), InputError, mentions("nothing"));
  BOOST_CHECK_EXCEPTION(compare_files(folder / "empty.h5", folder / "empty.h5", {}), InputError,
                        mentions("nothing to compare"));
  for (const double bad : {-1.0, kNan, kInfinity}) {
    BOOST_CHECK_EXCEPTION(compare_files(a, a, {.rtol = bad}), InputError, mentions("tolerances"));
    BOOST_CHECK_EXCEPTION(compare_files(a, a, {.atol = bad}), InputError, mentions("tolerances"));
  }
}

}  // namespace
}  // namespace archon
