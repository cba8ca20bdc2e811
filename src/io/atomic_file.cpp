#include "atomic_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "archon/base/error.hpp"

namespace archon {

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)), temporary_(path_ + ".tmp") {
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ >= 0) return;
  throw_runtime_failure(fmt::format("cannot make {}: {}", temporary_, std::strerror(errno)));
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

AtomicFile::~AtomicFile() {
  close();
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
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
  ARCHON_ENSURE(::close(std::exchange(descriptor_, -1)) == 0, "cannot close {}: {}", temporary_,
                std::strerror(errno));
}

void AtomicFile::publish() {
  ARCHON_ENSURE(std::rename(temporary_.c_str(), path_.c_str()) == 0, "cannot rename {} to {}: {}",
                temporary_, path_, std::strerror(errno));
  temporary_.clear();
}

void AtomicFile::close() noexcept {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

}  // namespace archon
