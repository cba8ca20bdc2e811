// HDF5 files: what goes in comes out, and what is wrong with a file is said.
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>

#include "archon/base/error.hpp"
#include "archon/base/version.hpp"
#include "archon/io/hdf5.hpp"
#include "archon/io/new_hdf5_file.hpp"
#include "support/temporary_folder.hpp"

namespace archon::h5 {
namespace {

using test::mentions;
using test::TemporaryFolder;

void check_same(const at::Tensor& found, const at::Tensor& expected) {
  BOOST_TEST(found.scalar_type() == expected.scalar_type());
  BOOST_TEST(found.sizes().vec() == expected.sizes().vec(), boost::test_tools::per_element());
  BOOST_TEST(at::equal(found, expected));
}

/// Makes a dataset that Archon's own writer would not make.
void add_raw(const std::string& path, const std::string& name, hid_t type, hid_t space) {
  const Handle file(H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT));
  const Handle dataset(
      H5Dcreate2(file.get(), name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  BOOST_REQUIRE(dataset.get() >= 0);
}

BOOST_AUTO_TEST_CASE(every_type_makes_the_round_trip) {
  const TemporaryFolder folder;
  const at::Tensor values = at::arange(12, at::kDouble).reshape({3, 4});
  const std::vector<at::ScalarType> types{at::kDouble, at::kFloat,  at::kHalf,   at::kLong,
                                          at::kInt,    at::kShort,  at::kChar,   at::kByte,
                                          at::kBool,   at::kUInt16, at::kUInt32, at::kUInt64};
  {
    File file = File::create(folder / "a.h5", "test", 1);
    for (const at::ScalarType type : types) file.write(c10::toString(type), values.to(type));
    file.write("bfloat16", values.div(3).to(at::kBFloat16));
    file.flush();
  }
  const File file = File::open(folder / "a.h5");
  for (const at::ScalarType type : types) {
    BOOST_TEST_CONTEXT(c10::toString(type)) {
      BOOST_TEST((file.info(c10::toString(type)).dtype == type));
      const at::Tensor found = file.read(c10::toString(type));
      BOOST_TEST((found.scalar_type() == type));
      BOOST_TEST(at::equal(found.to(at::kDouble), values.to(type).to(at::kDouble)));
    }
  }
  BOOST_TEST((file.info("bfloat16").dtype == at::kFloat));
  check_same(file.read("bfloat16", at::kBFloat16), values.div(3).to(at::kBFloat16));
}

BOOST_AUTO_TEST_CASE(float16_keeps_its_bits) {
  const TemporaryFolder folder;
  const at::Tensor values = at::tensor({1.0, -65504.0, 6e-8, 0.1}, at::kDouble).to(at::kHalf);
  File file = File::create(folder / "a.h5", "test", 1);
  file.write("x", values);
  check_same(file.read("x"), values);
  check_same(file.read("x", at::kDouble), values.to(at::kDouble));  // converted by HDF5
  check_same(file.read("x", at::kFloat), values.to(at::kFloat));
}

BOOST_AUTO_TEST_CASE(extreme_integers_survive) {
  const TemporaryFolder folder;
  File file = File::create(folder / "a.h5", "test", 1);
  const at::Tensor values = at::tensor({INT64_MIN, INT64_MAX, int64_t{0}}, at::kLong);
  file.write("x", values);
  check_same(file.read("x"), values);
}

BOOST_AUTO_TEST_CASE(scalars_empty_tensors_and_views) {
  const TemporaryFolder folder;
  File file = File::create(folder / "a.h5", "test", 1);
  file.write_scalar("steps/000001/loss", 0.1);
  file.write("seven", at::full({}, 7, at::kInt));
  file.write("one_row", at::full({1}, 2.5, at::kFloat));
  file.write("none", at::empty({0, 3}, at::kFloat));
  file.write("transposed", at::arange(6, at::kLong).reshape({2, 3}).t());
  BOOST_TEST(file.read_scalar("/steps/000001/loss") == 0.1);
  BOOST_TEST(file.info("steps/000001/loss").shape.empty());
  BOOST_TEST(file.info("steps/000001/loss").rows() == 1);
  BOOST_TEST(file.read_scalar("seven") == 7);
  BOOST_TEST(file.read_scalar("one_row") == 2.5);
  check_same(file.read("none"), at::empty({0, 3}, at::kFloat));
  check_same(file.read("transposed"), at::arange(6, at::kLong).reshape({2, 3}).t());
}

BOOST_AUTO_TEST_CASE(reading_converts) {
  const TemporaryFolder folder;
  File file = File::create(folder / "a.h5", "test", 1);
  const at::Tensor numbers = at::arange(5, at::kInt);
  file.write("int", numbers);
  file.write("bool", numbers.to(at::kBool));
  check_same(file.read("int", at::kLong), numbers.to(at::kLong));
  check_same(file.read("int", at::kFloat), numbers.to(at::kFloat));
  check_same(file.read("int", at::kHalf), numbers.to(at::kHalf));
  check_same(file.read("int", at::kBool), numbers.to(at::kBool));
  check_same(file.read("bool", at::kByte), numbers.to(at::kBool).to(at::kByte));
}

BOOST_AUTO_TEST_CASE(conversion_never_clips_or_truncates) {
  const TemporaryFolder folder;
  File file = File::create(folder / "a.h5", "test", 1);
  file.write("large", at::full({3}, int64_t{1} << 40, at::kLong));
  file.write("negative", at::full({3}, -1, at::kInt));
  file.write("float", at::full({3}, 1.5, at::kFloat));
  BOOST_CHECK_EXCEPTION(file.read("large", at::kInt), InputError,
                        mentions("a.h5", "/large", "do not fit Int"));
  BOOST_CHECK_EXCEPTION(file.read("negative", at::kByte), InputError,
                        mentions("/negative", "do not fit Byte"));
  BOOST_CHECK_EXCEPTION(file.read("float", at::kLong), InputError,
                        mentions("a.h5", "/float", "Float", "integers (Long)"));
  BOOST_CHECK_EXCEPTION(file.read("float", at::kBool), InputError, mentions("/float"));
}

BOOST_AUTO_TEST_CASE(rows_are_read_and_written_in_parts) {
  const TemporaryFolder folder;
  const at::Tensor values = at::arange(20, at::kFloat).reshape({10, 2});
  File file = File::create(folder / "a.h5", "test", 1);
  file.create_rows("x", {2}, at::kFloat, 10);
  file.write_rows("x", 6, values.slice(0, 6, 10));
  file.write_rows("x", 0, values.slice(0, 0, 6));
  check_same(file.read("x"), values);
  check_same(file.read_rows("x", 3, 4), values.slice(0, 3, 7));
  check_same(file.read_rows("x", 9, 1, at::kDouble), values.slice(0, 9, 10).to(at::kDouble));
  check_same(file.read_rows("x", 10, 0), at::empty({0, 2}, at::kFloat));
  file.create_rows("bfloat16", {2}, at::kBFloat16, 10);
  file.write_rows("bfloat16", 0, values.to(at::kBFloat16));
  check_same(file.read("bfloat16"), values);
}

BOOST_AUTO_TEST_CASE(rows_outside_a_dataset_are_refused) {
  const TemporaryFolder folder;
  File file = File::create(folder / "a.h5", "test", 1);
  file.write("x", at::ones({4, 2}, at::kFloat));
  file.write_scalar("scalar", 1);
  for (const auto& [begin, count] :
       {std::pair<int64_t, int64_t>{3, 2}, {-1, 2}, {0, -1}, {5, 0}, {INT64_MAX, 1}})
    BOOST_CHECK_EXCEPTION(file.read_rows("x", begin, count), InputError,
                          mentions("a.h5", "/x", "it has 4 rows"));
  BOOST_CHECK_EXCEPTION(file.read_rows("scalar", 0, 1), InputError, mentions("is a scalar"));
  BOOST_CHECK_EXCEPTION(file.read_scalar("x"), InputError, mentions("/x", "[4, 2]", "one number"));
  BOOST_CHECK_EXCEPTION(file.write_rows("x", 3, at::ones({2, 2}, at::kFloat)), RuntimeFailure,
                        mentions("2 rows at row 3", "has 4"));
  BOOST_CHECK_EXCEPTION(file.write_rows("x", 0, at::ones({2, 3}, at::kFloat)), RuntimeFailure,
                        mentions("[2, 3]", "/x", "[4, 2]"));
  BOOST_CHECK_THROW(file.write_rows("scalar", 0, at::ones({1})), RuntimeFailure);
}

BOOST_AUTO_TEST_CASE(datasets_grow_by_rows_over_several_openings) {
  const TemporaryFolder folder;
  {
    File file = File::create(folder / "a.h5", "test", 1);
    file.create_rows("loss", {}, at::kDouble);
    file.create_rows("wide", {3, 70000}, at::kFloat);  // a row is larger than a usual chunk
    BOOST_TEST(file.info("loss").rows() == 0);
    file.append_rows("loss", at::arange(2, at::kDouble));
    file.append_rows("wide", at::ones({1, 3, 70000}, at::kFloat));
  }
  {
    File file = File::append(folder / "a.h5");
    for (int64_t i = 2; i < 3000; ++i)
      file.append_rows("loss", at::full({1}, static_cast<double>(i), at::kDouble));
    file.append_rows("loss", at::empty({0}, at::kDouble));
  }
  const File file = File::open(folder / "a.h5");
  check_same(file.read("loss"), at::arange(3000, at::kDouble));
  check_same(file.read("wide"), at::ones({1, 3, 70000}, at::kFloat));
}

BOOST_AUTO_TEST_CASE(appending_needs_a_growing_dataset) {
  const TemporaryFolder folder;
  File file = File::create(folder / "a.h5", "test", 1);
  file.write("fixed", at::ones({2}, at::kFloat));
  file.create_rows("rows", {2}, at::kFloat);
  BOOST_CHECK_EXCEPTION(file.append_rows("fixed", at::ones({1}, at::kFloat)), RuntimeFailure,
                        mentions("cannot append 1 rows to /fixed"));
  BOOST_CHECK_EXCEPTION(file.append_rows("rows", at::ones({1, 3}, at::kFloat)), RuntimeFailure,
                        mentions("/rows"));
  BOOST_TEST(file.info("rows").rows() == 0);
  BOOST_CHECK_EXCEPTION(file.append_rows("absent", at::ones({1})), InputError, mentions("/absent"));
}

BOOST_AUTO_TEST_CASE(attributes_make_the_round_trip) {
  const TemporaryFolder folder;
  {
    File file = File::create(folder / "a.h5", "metrics", 3);
    file.write_scalar("g/x", 1);
    file.set_attribute("/g/x", "text", std::string("größer"));
    file.set_attribute("/g/x", "empty", std::string());
    file.set_attribute("/g", "count", int64_t{5});
    file.set_attribute("/g", "count", int64_t{6});
    file.set_attribute("/g", "ratio", 0.25);
  }
  const File file = File::open(folder / "a.h5");
  BOOST_TEST(file.string_attribute("/", "archon_version").value() == version());
  BOOST_TEST(file.string_attribute("/", "schema").value() == "metrics");
  BOOST_TEST(file.number_attribute("/", "schema_version").value() == 3);
  BOOST_TEST(file.string_attribute("/g/x", "text").value() == "größer");
  BOOST_TEST(file.string_attribute("/g/x", "empty").value() == "");
  BOOST_TEST(file.number_attribute("/g", "count").value() == 6);
  BOOST_TEST(file.number_attribute("/g", "ratio").value() == 0.25);
  BOOST_TEST(!file.string_attribute("/g", "absent"));
  BOOST_TEST(!file.number_attribute("/g", "absent"));
  BOOST_CHECK_EXCEPTION(file.number_attribute("/g/x", "text"), InputError,
                        mentions("text", "not a number"));
  BOOST_CHECK_EXCEPTION(file.string_attribute("/g", "count"), InputError,
                        mentions("count", "not a string"));
  BOOST_CHECK_EXCEPTION(file.string_attribute("/absent", "count"), InputError,
                        mentions("a.h5", "/absent"));
}

BOOST_AUTO_TEST_CASE(attributes_of_other_programs_are_read) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.h5";
  File::create(path, "test", 1);
  {
    const Handle file(H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT));
    const hsize_t two = 2;
    const Handle scalar(H5Screate(H5S_SCALAR)), pair(H5Screate_simple(1, &two, nullptr));
    const auto add = [&](const char* name, H5T_str_t padding, const char(&text)[9]) {
      const Handle type(H5Tcopy(H5T_C_S1));
      H5Tset_size(type.get(), 8);
      H5Tset_strpad(type.get(), padding);
      const Handle attribute(
          H5Acreate2(file.get(), name, type.get(), scalar.get(), H5P_DEFAULT, H5P_DEFAULT));
      H5Awrite(attribute.get(), type.get(), text);
    };
    add("terminated", H5T_STR_NULLTERM, "abc\0junk");
    add("zeros", H5T_STR_NULLPAD, "12345678");
    add("spaces", H5T_STR_SPACEPAD, "abc     ");
    const Handle list(
        H5Acreate2(file.get(), "list", H5T_NATIVE_DOUBLE, pair.get(), H5P_DEFAULT, H5P_DEFAULT));
  }
  const File file = File::open(path);
  BOOST_TEST(file.string_attribute("/", "terminated").value() == "abc");
  BOOST_TEST(file.string_attribute("/", "zeros").value() == "12345678");
  BOOST_TEST(file.string_attribute("/", "spaces").value() == "abc");
  BOOST_CHECK_EXCEPTION(file.number_attribute("/", "list"), InputError,
                        mentions("list", "2 elements"));
}

BOOST_AUTO_TEST_CASE(datasets_are_listed_by_path) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.h5";
  {
    File file = File::create(path, "test", 1);
    file.write("b", at::ones({2, 3}, at::kFloat));
    file.write("a/z", at::ones({1}, at::kLong));
    file.write("a/b/c", at::ones({1}, at::kInt));
  }
  const Handle scalar(H5Screate(H5S_SCALAR)), null(H5Screate(H5S_NULL));
  add_raw(path, "a/text", H5T_C_S1, scalar.get());
  add_raw(path, "null", H5T_NATIVE_FLOAT, null.get());
  const File file = File::open(path);
  std::vector<std::string> all, below;
  for (const DatasetInfo& info : file.datasets()) all.push_back(info.path);
  for (const DatasetInfo& info : file.datasets("a")) below.push_back(info.path);
  const std::vector<std::string> expected{"/a/b/c", "/a/text", "/a/z", "/b", "/null"};
  const std::vector<std::string> expected_below{"/a/b/c", "/a/text", "/a/z"};
  BOOST_TEST(all == expected, boost::test_tools::per_element());
  BOOST_TEST(below == expected_below, boost::test_tools::per_element());
  BOOST_TEST((file.info("a/text").dtype == at::ScalarType::Undefined));
  BOOST_CHECK_EXCEPTION(file.read("a/text"), InputError, mentions("a.h5", "/a/text", "strings"));
  check_same(file.read("null"), at::empty({0}, at::kFloat));
  BOOST_TEST(file.has("/a/z"));
  BOOST_TEST(file.has("a/b/c"));
  BOOST_TEST(!file.has("a"));
  BOOST_TEST(!file.has("a/absent"));
  BOOST_TEST(!file.has("absent/z"));
  BOOST_CHECK_EXCEPTION(file.datasets("absent"), InputError, mentions("a.h5", "/absent"));
}

BOOST_AUTO_TEST_CASE(absent_datasets_are_named_with_what_is_there) {
  const TemporaryFolder folder;
  File file = File::create(folder / "a.h5", "test", 1);
  BOOST_CHECK_EXCEPTION(file.read("x"), InputError,
                        mentions("a.h5", "no dataset /x", "none at all"));
  for (int i = 0; i < 10; ++i) file.write_scalar("g/n" + std::to_string(i), i);
  BOOST_CHECK_EXCEPTION(file.info("x"), InputError, mentions("/g/n0, /g/n1", "/g/n7 and 2 more"));
  BOOST_CHECK_EXCEPTION(file.read_rows("x", 0, 1), InputError, mentions("/x"));
  BOOST_CHECK_EXCEPTION(file.read_scalar("x"), InputError, mentions("/x"));
  BOOST_CHECK_EXCEPTION(file.read("g"), InputError, mentions("/g is a group"));
}

BOOST_AUTO_TEST_CASE(a_dataset_is_not_written_twice) {
  const TemporaryFolder folder;
  File file = File::create(folder / "a.h5", "test", 1);
  file.write_scalar("x", 1);
  BOOST_CHECK_EXCEPTION(file.write_scalar("x", 2), RuntimeFailure,
                        mentions("a.h5", "/x", "name already exists"));
  BOOST_TEST(file.read_scalar("x") == 1);
}

BOOST_AUTO_TEST_CASE(what_is_not_an_hdf5_file_is_refused) {
  const TemporaryFolder folder;
  test::write_bytes(folder / "text.h5", "this is not HDF5, only some text");
  test::write_bytes(folder / "empty.h5", "");
  for (const auto open : {&File::open, &File::append}) {
    BOOST_CHECK_EXCEPTION(open(folder / "absent.h5"), InputError,
                          mentions("absent.h5", "No such file"));
    BOOST_CHECK_EXCEPTION(open(folder.path()), InputError, mentions("is a folder"));
    BOOST_CHECK_EXCEPTION(open(folder / "text.h5"), InputError,
                          mentions("text.h5", "not an HDF5 file"));
    BOOST_CHECK_EXCEPTION(open(folder / "empty.h5"), InputError,
                          mentions("empty.h5", "not an HDF5 file"));
  }
  BOOST_CHECK_EXCEPTION(File::create(folder / "absent/a.h5", "test", 1), RuntimeFailure,
                        mentions("absent/a.h5", "No such file"));
}

BOOST_AUTO_TEST_CASE(truncated_files_are_refused) {
  const TemporaryFolder folder;
  {
    File file = File::create(folder / "whole.h5", "test", 1);
    file.write("x", at::ones({1000}, at::kFloat));
  }
  const std::string bytes = test::read_bytes(folder / "whole.h5");
  for (const std::size_t size : {bytes.size() - 1, bytes.size() / 2, std::size_t{100}}) {
    test::write_bytes(folder / "cut.h5", bytes.substr(0, size));
    BOOST_CHECK_EXCEPTION(File::open(folder / "cut.h5"), InputError, mentions("cut.h5"));
  }
}

BOOST_AUTO_TEST_CASE(damaged_data_is_refused) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.h5";
  File::create(path, "test", 1);
  {  // a chunk under a checksum, of which one byte is then changed
    const Handle file(H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT));
    const hsize_t count = 1000;
    const Handle space(H5Screate_simple(1, &count, nullptr));
    const Handle list(H5Pcreate(H5P_DATASET_CREATE));
    H5Pset_chunk(list.get(), 1, &count);
    H5Pset_fletcher32(list.get());
    const Handle dataset(H5Dcreate2(file.get(), "x", H5T_STD_I32LE, space.get(), H5P_DEFAULT,
                                    list.get(), H5P_DEFAULT));
    const at::Tensor values = at::full({1000}, 0x41424344, at::kInt);
    H5Dwrite(dataset.get(), H5T_STD_I32LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.const_data_ptr());
  }
  BOOST_TEST(File::open(path).read("x").sum().item<int64_t>() == 1000 * int64_t{0x41424344});
  std::string bytes = test::read_bytes(path);
  const auto data = bytes.find("DCBADCBADCBA");
  BOOST_REQUIRE(data != std::string::npos);
  bytes[data + 5] = '?';
  test::write_bytes(path, bytes);
  BOOST_CHECK_EXCEPTION(File::open(path).read("x"), InputError,
                        mentions("a.h5", "/x", "damaged", "checksum"));
}

BOOST_AUTO_TEST_CASE(only_files_of_archon_are_continued) {
  const TemporaryFolder folder;
  {
    const Handle file(
        H5Fcreate((folder / "a.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
  }
  BOOST_CHECK_EXCEPTION(File::append(folder / "a.h5"), InputError,
                        mentions("a.h5", "not written by Archon"));
}

BOOST_AUTO_TEST_CASE(a_copy_is_changed_and_published_or_forgotten) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.h5";
  {
    File file = File::create(path, "test", 1);
    file.write("g/x", at::arange(10));
    file.write("y", at::arange(3));
    file.set_attribute("g", "of", std::string("mine"));
  }
  std::filesystem::permissions(path, std::filesystem::perms::owner_read);
  const std::string before = test::read_bytes(path);
  const auto edit = [&](NewFile& copy) {
    BOOST_CHECK_EXCEPTION(copy.file().remove("z"), InputError, mentions("no dataset /z"));
    copy.file().remove("y");
    copy.file().write("y", at::ones({2}));
  };
  {
    NewFile copy = NewFile::copy_of(path, path);
    edit(copy);
  }
  BOOST_TEST((test::read_bytes(path) == before));
  BOOST_TEST(test::names_in(folder.path()) == std::vector<std::string>{"a.h5"});
  NewFile copy = NewFile::copy_of(path, path);
  edit(copy);
  copy.publish();
  const File file = File::open(path);
  check_same(file.read("g/x"), at::arange(10));
  check_same(file.read("y"), at::ones({2}));
  BOOST_TEST(file.string_attribute("g", "of").value_or("") == "mine");

  const std::string link = folder / "link.h5";
  std::filesystem::create_symlink("a.h5", link);
  NewFile through = NewFile::copy_of(link, link);
  through.file().write("z", at::ones({1}));
  through.publish();
  BOOST_TEST(std::filesystem::is_symlink(link));
  BOOST_TEST(File::open(path).has("/z"));
}

BOOST_AUTO_TEST_CASE(equal_contents_make_equal_files) {
  const TemporaryFolder folder;
  for (const char* name : {"a.h5", "b.h5"}) {
    File file = File::create(folder / name, "test", 1);
    file.write("g/x", at::arange(10));
    file.create_rows("rows", {}, at::kDouble);
    file.append_rows("rows", at::ones({3}, at::kDouble));
  }
  BOOST_TEST((test::read_bytes(folder / "a.h5") == test::read_bytes(folder / "b.h5")));
}

BOOST_AUTO_TEST_CASE(no_identifier_stays_open) {
  const TemporaryFolder folder;
  const auto before = H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL);
  {
    File file = File::create(folder / "a.h5", "test", 1);
    file.write("x", at::ones({3}, at::kFloat));
    file.create_rows("rows", {2}, at::kHalf);
    file.append_rows("rows", at::ones({3, 2}, at::kHalf));
    file.read_rows("rows", 1, 1, at::kFloat);
    file.datasets();
    BOOST_CHECK_THROW(file.read("absent"), InputError);
    BOOST_CHECK_THROW(file.write("x", at::ones({3})), RuntimeFailure);
    file.string_attribute("/", "schema");
    File other = File::create(folder / "b.h5", "test", 1);
    other = std::move(file);  // frees what it held
    BOOST_TEST(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == before + 1);
  }
  BOOST_TEST(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == before);
}

BOOST_AUTO_TEST_CASE(files_of_h5py_are_read) {
  const File file = File::open(test::test_file("golden/q3_tiny/golden.h5"));
  BOOST_TEST(file.string_attribute("/", "model_type").value() == "qwen3");
  BOOST_TEST(file.number_attribute("/", "n_tokens").value() == 108);
  const at::Tensor entropy = file.read("entropy");
  BOOST_TEST(entropy.size(0) == 108);
  BOOST_TEST((entropy.scalar_type() == at::kFloat));
  BOOST_TEST(file.datasets().size() > 100u);
}

BOOST_AUTO_TEST_CASE(a_file_that_another_process_has_locked_is_replaced) {
  const TemporaryFolder folder;
  const std::string path = folder / "locked.h5";
  File::create(path, "test", 1).flush();
  const int other = ::open(path.c_str(), O_RDWR);
  BOOST_REQUIRE(::flock(other, LOCK_EX | LOCK_NB) == 0);
  File::create(path, "test", 2).flush();
  ::close(other);
  BOOST_TEST(*File::open(path).number_attribute("/", "schema_version") == 2);
}

}  // namespace
}  // namespace archon::h5
