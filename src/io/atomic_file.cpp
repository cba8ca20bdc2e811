#include "atomic_file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"

namespace archon {
namespace {

/// Waits for a process that has it. Where the file system knows no locks, nothing is locked.
void lock(int descriptor, const std::string& path) {
  if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  log::warning("another process writes {}; waiting for it", path);
  while (::flock(descriptor, LOCK_EX) != 0 && errno == EINTR) continue;
}

/// Whether the file still has this name: who had it locked may have renamed or removed it.
bool has_name(int descriptor, const std::string& path) {
  struct stat open = {}, named = {};
  return ::fstat(descriptor, &open) == 0 && ::stat(path.c_str(), &named) == 0 &&
         open.st_ino == named.st_ino && open.st_dev == named.st_dev;
}

// Of a file system that numbers a file anew each time, nothing can be said.
constexpr int kMostAttempts = 100;

}  // namespace

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)), temporary_(path_ + ".tmp") {
  for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
    close();
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ < 0) break;
    lock(descriptor_, temporary_);
    if (has_name(descriptor_, temporary_)) break;
  }
  if (descriptor_ >= 0 && ::ftruncate(descriptor_, 0) == 0) return;
  const int reason = errno;
  close();
  throw_runtime_failure(fmt::format("cannot make {}: {}", temporary_, std::strerror(reason)));
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

AtomicFile::~AtomicFile() {
  // While it is locked: later it may be another's.
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  close();
}

void AtomicFile::write(const void* bytes, std::size_t count) {
  const char* next = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t written = ::write(descriptor_, next, count);
    if (written < 0 && errno == EINTR) continue;
    ARCHON_ENSURE(written >= 0, "cannot write {}: {}", temporary_, std::strerror(errno));
    next += written;
    count -= static_cast<std::size_t>(written);
  }
}

void AtomicFile::finish() {
  ARCHON_ENSURE(::fsync(descriptor_) == 0, "cannot sync {}: {}", temporary_, std::strerror(errno));
}

void AtomicFile::publish() {
  ARCHON_ENSURE(std::rename(temporary_.c_str(), path_.c_str()) == 0, "cannot rename {} to {}: {}",
                temporary_, path_, std::strerror(errno));
  temporary_.clear();
  close();
}

void AtomicFile::close() noexcept {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

}  // namespace archon
