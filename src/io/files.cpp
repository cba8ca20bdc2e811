#include "archon/io/files.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "atomic_file.hpp"

namespace archon {
namespace fs = std::filesystem;

std::string read_text_file(const std::string& path) {
  std::error_code ignored;
  ARCHON_VALIDATE(!fs::is_directory(path, ignored), "cannot read {}: it is a folder, not a file",
                  path);
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  ARCHON_VALIDATE(file.is_open(), "cannot read {}: {}", path, std::strerror(errno));
  std::string text(std::istreambuf_iterator<char>(file), {});
  ARCHON_VALIDATE(!file.bad(), "cannot read {}: {}", path, std::strerror(errno));
  return text;
}

void write_text_file(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text);
  file.finish();
  file.publish();
  sync_path(parent_folder(path));
}

void ensure_writable_folder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  ARCHON_VALIDATE(!error, "cannot make the folder {}: {}; name a folder you may write to", path,
                  error.message());
  std::string probe = path + "/.archon-probe-XXXXXX";
  const int descriptor = ::mkstemp(probe.data());
  ARCHON_VALIDATE(descriptor >= 0,
                  "cannot make files in the folder {}: {}; name a folder you may write to", path,
                  std::strerror(errno));
  ::close(descriptor);
  ::unlink(probe.c_str());
}

std::vector<std::string> list_folder(const std::string& path) {
  std::vector<std::string> names;
  // Of the name itself: what a link leads to may be away for a while.
  std::error_code ignored;
  const fs::file_type type = fs::symlink_status(path, ignored).type();
  if (type == fs::file_type::not_found) return names;
  try {
    for (const auto& item : fs::directory_iterator(path))
      names.push_back(item.path().filename().string());
  } catch (const fs::filesystem_error& error) {
    throw InputError(fmt::format("cannot list {}{}: {}; make it a folder that can be read, or name "
                                 "another one",
                                 path, type == fs::file_type::symlink ? " (a link)" : "",
                                 error.code().message()));
  }
  return names;
}

void validate_new_file(const std::string& path) {
  std::error_code ignored;
  const std::string folder = parent_folder(path);
  ARCHON_VALIDATE(fs::is_directory(folder, ignored),
                  "cannot write {}: there is no folder {}; make it, or name another file", path,
                  folder);
  const fs::file_status there = fs::status(path, ignored);
  ARCHON_VALIDATE(!fs::exists(there) || fs::is_regular_file(there),
                  "cannot write {}: what has this name is no file; name another one", path);
  ARCHON_VALIDATE(::access(folder.c_str(), W_OK | X_OK) == 0,
                  "cannot write {}: {}; name a file in a folder you may write to", path,
                  std::strerror(errno));
}

void validate_no_input(const char* option, const std::string& output,
                       const std::vector<std::string>& inputs) {
  std::error_code ignored;
  for (const std::string& input : inputs)
    ARCHON_VALIDATE(
        !fs::equivalent(fs::is_directory(input, ignored) ? parent_folder(output) : output, input,
                        ignored),
        "{} {} would be written into what is read, {}; choose another name", option, output, input);
}

void sync_path(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  ARCHON_ENSURE(descriptor >= 0, "cannot open {} to sync it: {}", path, std::strerror(errno));
  const bool synced = ::fsync(descriptor) == 0;
  const int reason = errno;
  ::close(descriptor);
  // EINVAL: some network file systems have no sync for folders.
  ARCHON_ENSURE(synced || reason == EINVAL, "cannot sync {}: {}", path, std::strerror(reason));
}

void remove_tree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  ARCHON_ENSURE(!error, "cannot remove {}: {}", path, error.message());
}

namespace {

void rename_path(const std::string& from, const std::string& to) {
  ARCHON_ENSURE(std::rename(from.c_str(), to.c_str()) == 0, "cannot rename {} to {}: {}", from, to,
                std::strerror(errno));
}

/// Beside `path`: a name that is no one else's.
std::string hidden(const std::string& path) {
  return parent_folder(path) + "/." + fs::path(path).filename().string() + ".old";
}

/// Whether two folders have changed names. Some file systems cannot do that.
bool exchange(const std::string& a, const std::string& b) {
  return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
}

/// For those: the name is away for a moment. Says where what had it is now.
std::string replace_in_two_steps(const std::string& written, const std::string& path) {
  remove_tree(hidden(path));
  rename_path(path, hidden(path));
  try {
    rename_path(written, path);
  } catch (const RuntimeFailure&) {
    std::rename(hidden(path).c_str(), path.c_str());
    throw;
  }
  return hidden(path);
}

}  // namespace

void hide_and_remove_tree(const std::string& path) {
  remove_tree(hidden(path));
  rename_path(path, hidden(path));
  remove_tree(hidden(path));
}

void replace_folder(const std::string& written, const std::string& path) {
  std::error_code ignored;
  std::string replaced;
  if (!fs::exists(path, ignored)) {
    rename_path(written, path);
  } else if (exchange(written, path)) {
    replaced = written;
  } else {
    replaced = replace_in_two_steps(written, path);
  }
  sync_path(parent_folder(path));
  if (replaced.empty()) return;
  try {
    remove_tree(replaced);
  } catch (const RuntimeFailure& failure) {
    log::warning("what {} replaced stays: {}", path, failure.what());
  }
}

int64_t read_at(int descriptor, void* bytes, std::size_t count, int64_t offset) {
  int64_t done = 0;
  while (done < static_cast<int64_t>(count)) {
    const ssize_t part = ::pread(descriptor, static_cast<char*>(bytes) + done,
                                 count - static_cast<std::size_t>(done), offset + done);
    if (part < 0 && errno == EINTR) continue;
    if (part < 0) return -1;
    if (part == 0) break;
    done += part;
  }
  return done;
}

std::string parent_folder(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace archon
