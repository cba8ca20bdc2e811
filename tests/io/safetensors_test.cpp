// Single safetensors files: every way in which one can be wrong, built byte by byte.
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <optional>

#include "archon/base/error.hpp"
#include "archon/io/safetensors.hpp"
#include "support/temporary_folder.hpp"

namespace archon {
namespace {

using test::mentions;
using test::TemporaryFolder;

std::string with_length(std::uint64_t length, const std::string& rest) {
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + rest;
}

/// A file of this header and so many bytes of data, counted from 0.
std::string file_of(const std::string& header, std::size_t data_bytes) {
  std::string data(data_bytes, '\0');
  for (std::size_t i = 0; i < data_bytes; ++i) data[i] = static_cast<char>(i);
  return with_length(header.size(), header + data);
}

template <class... Words>
void check_refused(const std::string& bytes, Words... words) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "bad.safetensors", bytes);
  BOOST_CHECK_EXCEPTION(SafetensorsFile(folder / "bad.safetensors"), InputError,
                        mentions("bad.safetensors", words...));
}

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

BOOST_AUTO_TEST_CASE(files_of_the_python_library_are_read) {
  const SafetensorsFile file(test::test_file("golden/q3_tiny/model/model.safetensors"));
  BOOST_TEST(file.entries().size() == 25u);
  const at::Tensor weight = file.view("model.layers.1.self_attn.k_proj.weight");
  BOOST_TEST((weight.scalar_type() == at::kFloat));
  BOOST_TEST((weight.sizes() == at::IntArrayRef({64, 48})));
  BOOST_TEST(weight[63][47].item<float>() == 0.039888735860586166f);
  BOOST_TEST(weight.to(at::kDouble).sum().item<double>() == 1.363351565978519,
             boost::test_tools::tolerance(1e-9));
}

BOOST_AUTO_TEST_CASE(every_dtype_is_read_from_its_bytes) {
  const std::vector<std::pair<std::string, at::ScalarType>> types{
      {"F64", at::kDouble}, {"F32", at::kFloat}, {"F16", at::kHalf},  {"BF16", at::kBFloat16},
      {"I64", at::kLong},   {"I32", at::kInt},   {"I16", at::kShort}, {"I8", at::kChar},
      {"U8", at::kByte},    {"BOOL", at::kBool}};
  for (const auto& [name, type] : types) {
    BOOST_TEST_CONTEXT(name) {
      const at::Tensor expected = at::tensor({0, 1, 1, 0, 1, 0}).to(type).reshape({2, 3});
      const std::string data(static_cast<const char*>(expected.const_data_ptr()),
                             expected.nbytes());
      const std::string header =
          "{\"x\":" + entry(name, "[2,3]", "[0," + std::to_string(data.size()) + "]") + "}";
      const TemporaryFolder folder;
      test::write_bytes(folder / "a", with_length(header.size(), header + data));
      const SafetensorsFile file(folder / "a");
      BOOST_TEST((file.entries().at("x").dtype == type));
      BOOST_TEST(at::equal(file.view("x"), expected));
    }
  }
}

BOOST_AUTO_TEST_CASE(metadata_scalars_and_empty_tensors_are_read) {
  const std::string header = R"({"__metadata__":{"format":"pt"},"empty":)" +
                             entry("F32", "[0,3]", "[0,0]") + R"(,"scalar":)" +
                             entry("U8", "[]", "[0,1]") + R"(,"last":)" +
                             entry("I64", "[0]", "[1,1]") + "}  ";
  const TemporaryFolder folder;
  test::write_bytes(folder / "a", file_of(header, 1));
  const SafetensorsFile file(folder / "a");
  BOOST_TEST(file.entries().size() == 3u);
  BOOST_TEST((file.view("empty").sizes() == at::IntArrayRef({0, 3})));
  BOOST_TEST(file.view("scalar").dim() == 0);
  BOOST_TEST(file.view("scalar").item<int64_t>() == 0);
  BOOST_CHECK_EXCEPTION(file.view("absent"), InputError, mentions("no tensor absent"));
  test::write_bytes(folder / "nothing", file_of("{}", 0));
  BOOST_TEST(SafetensorsFile(folder / "nothing").entries().empty());
}

BOOST_AUTO_TEST_CASE(views_outlive_the_file_object) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "a", file_of("{\"x\":" + entry("U8", "[4]", "[0,4]") + "}", 4));
  at::Tensor first, second;
  {
    const SafetensorsFile file(folder / "a");
    first = file.view("x");
    second = file.view("x");
    BOOST_TEST(first.const_data_ptr() == second.const_data_ptr());  // no copy
  }
  second.reset();
  BOOST_TEST(at::equal(first, at::arange(4, at::kByte)));
}

BOOST_AUTO_TEST_CASE(unaligned_tensors_come_as_copies) {
  const std::string one =
      "{\"b\":" + entry("U8", "[1]", "[0,1]") + ",\"x\":" + entry("I32", "[2]", "[1,9]") + "}";
  const TemporaryFolder folder;
  test::write_bytes(folder / "a", file_of(one + std::string((8 - one.size() % 8) % 8, ' '), 9));
  const at::Tensor view = SafetensorsFile(folder / "a").view("x");
  BOOST_TEST(reinterpret_cast<std::uintptr_t>(view.const_data_ptr()) % 4 == 0u);
  BOOST_TEST(at::equal(view, at::tensor({0x04030201, 0x08070605}, at::kInt)));
}

BOOST_AUTO_TEST_CASE(wrong_lengths_are_refused) {
  check_refused("", "0 bytes");
  check_refused("1234567", "7 bytes");
  check_refused(with_length(3, "{}"), "cut off", "3 bytes", "10 bytes");
  check_refused(with_length(100'000'001, "{}"), "100000001", "more than 100000000");
  check_refused(with_length(~std::uint64_t{0}, "{}"), "18446744073709551615");
  BOOST_CHECK_EXCEPTION(SafetensorsFile("/absent/a.safetensors"), InputError,
                        mentions("/absent/a.safetensors", "No such file"));
}

BOOST_AUTO_TEST_CASE(wrong_headers_are_refused) {
  check_refused(file_of("", 0), "not valid JSON");
  check_refused(file_of("{\"x\":", 0), "not valid JSON");
  check_refused(file_of("{} {}", 0), "not valid JSON");
  check_refused(file_of("[1, 2]", 0), "not a JSON object");
  check_refused(file_of("7", 0), "not a JSON object");
  check_refused(file_of(R"({"x":7})", 0), "entry of x");
  check_refused(file_of(R"({"__metadata__":7})", 0), "__metadata__");
  check_refused(file_of(R"({"__metadata__":{"a":7}})", 0), "__metadata__");
  const std::string good = entry("U8", "[1]", "[0,1]");
  check_refused(file_of("{\"x\":" + good + ",\"x\":" + good + "}", 1), "\"x\" is there twice");
}

BOOST_AUTO_TEST_CASE(wrong_dtypes_are_refused) {
  check_refused(file_of("{\"a.b\":" + entry("F8_E4M3", "[1]", "[0,1]") + "}", 1), "a.b", "F8_E4M3");
  check_refused(file_of(R"({"x":{"shape":[1],"data_offsets":[0,1]}})", 1), "x has no dtype");
  check_refused(file_of(R"({"x":{"dtype":1,"shape":[1],"data_offsets":[0,1]}})", 1),
                "x has no dtype");
}

BOOST_AUTO_TEST_CASE(wrong_shapes_are_refused) {
  for (const char* shape : {"[-1]", "[1.5]", "[\"1\"]", "1", "[[1]]", "null", "[true]",
                            "[9223372036854775808]", "[18446744073709551616]", "[1e3]"})
    check_refused(file_of("{\"x\":" + entry("U8", shape, "[0,1]") + "}", 1), "shape of x");
  check_refused(file_of(R"({"x":{"dtype":"U8","data_offsets":[0,1]}})", 1), "shape of x");
  // 2^62 * 4 elements, and 2^61 elements of 8 bytes: 64 bits would wrap around to 0
  check_refused(file_of("{\"x\":" + entry("U8", "[4611686018427387904,4]", "[0,0]") + "}", 0),
                "of x is too large", "4611686018427387904, 4");
  check_refused(file_of("{\"x\":" + entry("F64", "[2305843009213693952]", "[0,0]") + "}", 0),
                "of x is too large");
  check_refused(file_of("{\"x\":" + entry("F32", "[2]", "[0,4]") + "}", 4), "x (Float, shape [2])",
                "needs 8 bytes", "has 4");
}

BOOST_AUTO_TEST_CASE(wrong_offsets_are_refused) {
  for (const char* offsets : {"[0]", "[0,1,2]", "[-1,0]", "[0,1.0]", "{}", "[0,\"1\"]"})
    check_refused(file_of("{\"x\":" + entry("U8", "[1]", offsets) + "}", 1), "data_offsets of x");
  check_refused(file_of("{\"x\":" + entry("U8", "[2]", "[0,2]") + "}", 1), "[0, 2] of x",
                "file's 1 bytes");
  check_refused(file_of("{\"x\":" + entry("U8", "[1]", "[1,0]") + "}", 1), "[1, 0] of x");
  check_refused(
      file_of("{\"x\":" + entry("U8", "[1]", "[9223372036854775806,9223372036854775807]") + "}", 1),
      "of x are outside");
}

BOOST_AUTO_TEST_CASE(tensors_must_cover_the_data_once) {
  const auto two = [](const char* first, const char* second) {
    return "{\"x\":" + entry("U8", "[2]", first) + ",\"y\":" + entry("U8", "[2]", second) + "}";
  };
  const TemporaryFolder folder;
  test::write_bytes(folder / "good", file_of(two("[2,4]", "[0,2]"), 4));
  BOOST_TEST(SafetensorsFile(folder / "good").view("x")[0].item<int64_t>() == 2);
  check_refused(file_of(two("[0,2]", "[1,3]"), 3), "y overlaps");
  check_refused(file_of(two("[0,2]", "[0,2]"), 2), "overlaps");
  check_refused(file_of(two("[0,2]", "[3,5]"), 5), "gap before y");
  check_refused(file_of(two("[1,3]", "[3,5]"), 5), "gap before x");
  check_refused(file_of(two("[0,2]", "[2,4]"), 5), "1 bytes follow the last tensor");
  check_refused(file_of("{}", 5), "5 bytes follow");
}

BOOST_AUTO_TEST_CASE(a_file_cut_anywhere_is_refused) {
  const std::string whole =
      test::read_bytes(test::test_file("golden/q3_tiny/model/model.safetensors"));
  for (const std::size_t size : {whole.size() - 1, whole.size() / 2, std::size_t{2000},
                                 std::size_t{100}, std::size_t{8}, std::size_t{5}})
    check_refused(whole.substr(0, size));
}

}  // namespace
}  // namespace archon
