#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace archon::test {

/// A folder of this test's own, removed with all that is in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "archon-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string path() const { return path_.string(); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

/// What is in a folder, sorted.
inline std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& item : std::filesystem::directory_iterator(folder))
    names.push_back(item.path().filename().string());
  std::ranges::sort(names);
  return names;
}

inline std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

inline void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// A file below tests/ of the source tree.
inline std::string test_file(const std::string& name) {
  const char* source = std::getenv("ARCHON_TEST_SOURCE_DIR");
  if (source == nullptr) throw std::runtime_error("ARCHON_TEST_SOURCE_DIR is not set; use ctest");
  return std::string(source) + "/tests/" + name;
}

/// For BOOST_CHECK_EXCEPTION: the message holds every one of these words.
template <class... Words>
auto mentions(Words... words) {
  return [=](const std::exception& error) {
    const std::string text = error.what();
    return ((text.find(words) != std::string::npos) && ...);
  };
}

}  // namespace archon::test
