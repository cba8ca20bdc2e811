#pragma once

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <string>

#include "archon/base/error.hpp"

namespace archon::test {

namespace fs = std::filesystem;

/// A path named by one of the variables that CTest sets.
inline fs::path folder_of(const char* variable) {
  const char* value = std::getenv(variable);
  BOOST_REQUIRE_MESSAGE(value != nullptr, variable << " is not set; run the tests through ctest");
  return value;
}
inline fs::path golden(const std::string& name) {
  return folder_of("ARCHON_TEST_SOURCE_DIR") / "tests" / "golden" / name;
}
inline fs::path test_plugin(const std::string& name) {
  return folder_of("ARCHON_TEST_BINARY_DIR") / "tests" / "plugins" / (name + ".so");
}
inline fs::path built_plugin(const std::string& name) {
  return folder_of("ARCHON_TEST_BINARY_DIR") / "lib" / "archon" / "plugins" / (name + ".so");
}

/// A new folder that goes when it leaves scope.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (fs::temp_directory_path() / "archon_test_XXXXXX").string();
    BOOST_REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  fs::path operator/(const std::string& name) const { return path_ / name; }
  std::string string() const { return path_.string(); }

 private:
  fs::path path_;
};

inline std::string read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  BOOST_REQUIRE_MESSAGE(file.good(), "cannot read " << path);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_bytes(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// `action` throws an E whose message holds every one of `needles`.
template <class E = InputError, class Action>
void check_throws(Action action, std::initializer_list<std::string> needles) {
  try {
    action();
    BOOST_ERROR("nothing was thrown; expected a message with \"" << *needles.begin() << '"');
  } catch (const E& error) {
    const std::string message = error.what();
    for (const std::string& needle : needles) {
      BOOST_CHECK_MESSAGE(message.find(needle) != std::string::npos,
                          '"' << message << "\" does not hold \"" << needle << '"');
    }
  }
}

}  // namespace archon::test
