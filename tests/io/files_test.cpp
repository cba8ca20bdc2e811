// Text files, folders, JSON and mapped files.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <filesystem>
#include <future>

#include "archon/base/error.hpp"
#include "archon/io/files.hpp"
#include "archon/io/json.hpp"
#include "archon/io/mapped_file.hpp"
#include "support/temporary_folder.hpp"

namespace archon {
namespace {

namespace fs = std::filesystem;
using test::mentions;
using test::TemporaryFolder;
using test::write_bytes;

BOOST_AUTO_TEST_CASE(text_goes_to_disk_and_back) {
  const TemporaryFolder folder;
  const std::string text("two\nlines\0and a zero", 20);
  write_text_file(folder / "a.txt", "old");
  write_text_file(folder / "a.txt", text);
  BOOST_TEST(read_text_file(folder / "a.txt") == text);
  const auto files = fs::directory_iterator(folder.path());
  BOOST_TEST(std::distance(begin(files), end(files)) == 1);  // nothing temporary stays
}

BOOST_AUTO_TEST_CASE(files_have_the_mode_that_the_user_wants) {
  const TemporaryFolder folder;
  const mode_t before = ::umask(027);
  write_text_file(folder / "a.txt", "text");
  ::umask(before);
  struct stat status {};
  BOOST_REQUIRE(::stat((folder / "a.txt").c_str(), &status) == 0);
  BOOST_TEST((status.st_mode & 0777) == 0640u);
}

// Else one would publish what the other has begun.
BOOST_AUTO_TEST_CASE(who_writes_a_file_that_another_writes_waits_for_it) {
  using namespace std::chrono_literals;
  const TemporaryFolder folder;
  const std::string path = folder / "a.txt", left = path + ".tmp";
  for (const bool published : {true, false}) {
    write_bytes(left, "an earlier process was killed here");
    const int other = ::open(left.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
    BOOST_REQUIRE(other >= 0 && ::flock(other, LOCK_EX) == 0);
    auto written = std::async(std::launch::async, [&] { write_text_file(path, "mine"); });
    BOOST_TEST((written.wait_for(200ms) == std::future_status::timeout));
    BOOST_TEST(::write(other, "its own, which is longer", 24) == 24);
    if (published)
      fs::rename(left, path);
    else
      fs::remove(left);
    const std::string shown = published ? read_text_file(path) : "";
    ::close(other);
    written.get();
    if (published) BOOST_TEST(shown == "its own, which is longer");
    BOOST_TEST(read_text_file(path) == "mine");
    BOOST_TEST(!fs::exists(left));
  }
}

BOOST_AUTO_TEST_CASE(text_that_cannot_be_read_or_written_is_refused) {
  const TemporaryFolder folder;
  const std::string absent = folder / "absent";
  BOOST_CHECK_EXCEPTION(read_text_file(absent), InputError, mentions(absent, "No such file"));
  BOOST_CHECK_EXCEPTION(read_text_file(folder.path()), InputError, mentions("is a folder"));
  BOOST_CHECK_EXCEPTION(write_text_file(absent + "/a.txt", "text"), RuntimeFailure,
                        mentions(absent, "No such file"));
  fs::create_directory(folder / "taken");
  BOOST_CHECK_EXCEPTION(write_text_file(folder / "taken", "text"), RuntimeFailure,
                        mentions("cannot rename", "taken"));
  BOOST_TEST(!fs::exists(folder / "taken.tmp"));
}

BOOST_AUTO_TEST_CASE(output_folders_are_made_and_tried) {
  const TemporaryFolder folder;
  ensure_writable_folder(folder / "a/b/c");
  ensure_writable_folder(folder / "a/b/c");
  BOOST_TEST(fs::is_empty(folder / "a/b/c"));
  write_bytes(folder / "file", "");
  BOOST_CHECK_EXCEPTION(ensure_writable_folder(folder / "file/sub"), InputError,
                        mentions("file/sub", "Not a directory"));
  BOOST_CHECK_EXCEPTION(ensure_writable_folder("/proc/archon"), InputError,
                        mentions("/proc/archon"));
  // root may write anywhere but in file systems such as this
  BOOST_CHECK_EXCEPTION(ensure_writable_folder("/proc"), InputError, mentions("cannot make files"));
}

BOOST_AUTO_TEST_CASE(parents_of_paths) {
  BOOST_TEST(parent_folder("a/b.txt") == "a");
  BOOST_TEST(parent_folder("b.txt") == ".");
  BOOST_TEST(parent_folder("/b.txt") == "/");
  BOOST_CHECK_EXCEPTION(sync_path("/absent/path"), RuntimeFailure, mentions("/absent/path"));
}

BOOST_AUTO_TEST_CASE(json_keeps_its_order) {
  const TemporaryFolder folder;
  write_bytes(folder / "a.json", R"({"z": 1, "a": {"x": [1, 2]}, "b": {"x": "ü"}})");
  BOOST_TEST(read_json_file(folder / "a.json").dump() ==
             R"({"z":1,"a":{"x":[1,2]},"b":{"x":"ü"}})");
}

BOOST_AUTO_TEST_CASE(what_is_not_json_is_refused) {
  const TemporaryFolder folder;
  write_bytes(folder / "a.json", "{\n\"a\": 1,\n oops}");
  BOOST_CHECK_EXCEPTION(read_json_file(folder / "a.json"), InputError,
                        mentions("a.json is not valid JSON: parse error at line 3"));
  BOOST_CHECK_EXCEPTION(parse_json("", "text"), InputError, mentions("text is not valid JSON"));
  BOOST_CHECK_EXCEPTION(parse_json("\"\xff\"", "text"), InputError, mentions("UTF-8"));
  BOOST_CHECK_EXCEPTION(parse_json(R"({"a": {"b": 1, "c": 2, "b": 3}})", "text"), InputError,
                        mentions("\"b\" is there twice"));
  BOOST_CHECK_EXCEPTION(read_json_file(folder / "absent"), InputError, mentions("absent"));
  const auto nested = [](std::size_t deep) {
    return std::string(deep, '[') + "1" + std::string(deep, ']');
  };
  BOOST_TEST(parse_json(nested(100), "text").size() == 1u);
  for (const std::size_t deep : {101, 200'000})
    BOOST_CHECK_EXCEPTION(parse_json(nested(deep), "text"), InputError,
                          mentions("text is nested more than 100 deep"));
}

BOOST_AUTO_TEST_CASE(files_are_mapped) {
  const TemporaryFolder folder;
  write_bytes(folder / "a", "bytes");
  write_bytes(folder / "empty", "");
  const MappedFile file(folder / "a");
  BOOST_TEST(std::string(reinterpret_cast<const char*>(file.data()), file.size()) == "bytes");
  BOOST_TEST(MappedFile(folder / "empty").size() == 0u);
  BOOST_CHECK_EXCEPTION(MappedFile(folder / "absent"), InputError,
                        mentions("absent", "No such file"));
  BOOST_CHECK_EXCEPTION(MappedFile(folder.path()), InputError, mentions("not a regular file"));
}

}  // namespace
}  // namespace archon
