#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <filesystem>
#include <functional>

#include "archon/base/dynamic_library.hpp"
#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/base/threads.hpp"
#include "archon/base/version.hpp"
#include "support/temporary_folder.hpp"

using archon::InputError;
using archon::RuntimeFailure;
using archon::test::mentions;
using archon::test::TemporaryFolder;

namespace {

/// What `action` writes to stderr.
std::string captured(const std::function<void()>& action) {
  const TemporaryFolder folder;
  const int before = ::dup(STDERR_FILENO);
  const int file = ::open((folder / "err").c_str(), O_WRONLY | O_CREAT, 0600);
  ::dup2(file, STDERR_FILENO);
  action();
  ::dup2(before, STDERR_FILENO);
  ::close(file);
  ::close(before);
  return archon::test::read_bytes(folder / "err");
}

void speak() {
  archon::log::debug("a {}", 1);
  archon::log::info("b {}", 2);
  archon::log::warning("c {}", 3);
  archon::log::error("d {}", 4);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(base)

BOOST_AUTO_TEST_CASE(checks_throw_their_kind_of_error_with_the_values) {
  const int given = 7;
  BOOST_CHECK_EXCEPTION(ARCHON_VALIDATE(given < 3, "--x {} is too much", given), InputError,
                        mentions("--x 7 is too much"));
  BOOST_CHECK_EXCEPTION(ARCHON_ENSURE(given < 3, "{} broke", given), RuntimeFailure,
                        mentions("7 broke"));
  BOOST_CHECK_NO_THROW(ARCHON_VALIDATE(given > 3, "not seen"));
  BOOST_CHECK_NO_THROW(ARCHON_ENSURE(given > 3, "not seen"));
}

BOOST_AUTO_TEST_CASE(an_error_is_known_by_its_base) {
  BOOST_CHECK_THROW(throw InputError("x"), archon::Error);
  BOOST_CHECK_THROW(throw RuntimeFailure("x"), archon::Error);
}

BOOST_AUTO_TEST_CASE(rank_0_speaks_from_its_level_on_and_others_only_of_errors) {
  using archon::log::Level;
  archon::log::configure(Level::warning, 0, 1);
  BOOST_TEST(captured(speak) == "archon: warning: c 3\narchon: error: d 4\n");
  archon::log::configure(Level::debug, 0, 4);
  const std::string all = captured(speak);
  for (const char* line : {"archon[0]: debug: a 1", "info: b 2", "warning: c 3", "error: d 4"})
    BOOST_CHECK_MESSAGE(all.find(line) != std::string::npos, all << " lacks " << line);
  archon::log::configure(Level::debug, 2, 4);
  BOOST_TEST(captured(speak) == "archon[2]: error: d 4\n");
}

BOOST_AUTO_TEST_CASE(log_levels_have_names) {
  BOOST_TEST((archon::log::parse_level("warning") == archon::log::Level::warning));
  BOOST_CHECK_EXCEPTION(archon::log::parse_level("loud"), InputError,
                        mentions("loud", "debug", "info", "warning", "error"));
}

BOOST_AUTO_TEST_CASE(cores_are_shared_out_to_ranks) {
  BOOST_TEST(archon::threads_per_rank(8, 1) == 8);
  BOOST_TEST(archon::threads_per_rank(8, 3) == 2);
  BOOST_TEST(archon::threads_per_rank(2, 8) == 1);
  BOOST_TEST(archon::threads_per_rank(4, 0) == 4);
  BOOST_TEST(archon::describe_cores(1, 1) == "1 core, shared by 1 rank");
  BOOST_TEST(archon::describe_cores(8, 3) == "8 cores, shared by 3 ranks");
}

BOOST_AUTO_TEST_CASE(cores_are_those_of_the_affinity_mask) {
  cpu_set_t before, one;
  BOOST_REQUIRE(::sched_getaffinity(0, sizeof before, &before) == 0);
  BOOST_TEST(archon::available_cores() == CPU_COUNT(&before));
  CPU_ZERO(&one);
  for (int core = 0; core < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++core)
    if (CPU_ISSET(core, &before)) CPU_SET(core, &one);
  BOOST_REQUIRE(::sched_setaffinity(0, sizeof one, &one) == 0);
  BOOST_TEST(archon::available_cores() == 1);
  ::sched_setaffinity(0, sizeof before, &before);
}

BOOST_AUTO_TEST_CASE(shared_objects) {
  const TemporaryFolder folder;
  BOOST_CHECK_EXCEPTION(archon::DynamicLibrary::open(folder / "none.so"), InputError,
                        mentions("none.so", "No such file"));
  archon::test::write_bytes(folder / "text.so", "this is no shared object");
  BOOST_CHECK_EXCEPTION(archon::DynamicLibrary::open(folder / "text.so"), InputError,
                        mentions("text.so"));
  const std::string core = archon::core_library_path();
  BOOST_TEST(std::filesystem::is_regular_file(core));
  const auto library = archon::DynamicLibrary::open(core);
  BOOST_TEST((library.symbol("no_such_symbol") == nullptr));
}

BOOST_AUTO_TEST_CASE(the_version_has_three_numbers) {
  int numbers[3] = {-1, -1, -1};
  BOOST_TEST(std::sscanf(archon::version(), "%d.%d.%d", numbers, numbers + 1, numbers + 2) == 3);
}

BOOST_AUTO_TEST_SUITE_END()
