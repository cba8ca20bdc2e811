#include "raw_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <utility>

#include "archon/base/error.hpp"

namespace archon {
namespace {

/// The system begins to write to the disk when so many bytes have come together, not only when the
/// file is synced.
constexpr int64_t kStartBytes = int64_t{32} << 20;

}  // namespace

RequestedFailure::RequestedFailure(int rank) {
  const char* variable = std::getenv("ARCHON_FAIL_CHECKPOINT");
  if (variable == nullptr) return;
  std::istringstream text(variable);
  std::string kind, at_rank = "0", nth = "1";
  std::getline(text, kind, ':') && std::getline(text, at_rank, ':') && std::getline(text, nth);
  if (rank == std::stoi(at_rank)) kind_ = kind;
  nth_ = std::stoll(nth);
}

void RequestedFailure::check(const char* kind, const std::string& path) const {
  if (kind_ != kind || saves_ != nth_) return;
  throw_runtime_failure(fmt::format("cannot {} {}: {}", kind_ == "space" ? "write" : kind, path,
                                    std::strerror(kind_ == "space" ? ENOSPC : EIO)));
}

RawFile::RawFile(std::string path, const RequestedFailure& requested)
    : path_(std::move(path)), requested_(requested) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  ARCHON_ENSURE(descriptor_ >= 0, "cannot make {}: {}", path_, std::strerror(errno));
}

RawFile::~RawFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void RawFile::write(const void* bytes, std::size_t count) {
  requested_.check("space", path_);
  requested_.check("write", path_);
  sum_.add(bytes, count);
  const char* next = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t done = ::write(descriptor_, next, count);
    if (done < 0 && errno == EINTR) continue;
    ARCHON_ENSURE(done >= 0, "cannot write {}: {}", path_, std::strerror(errno));
    next += done;
    count -= static_cast<std::size_t>(done);
    written_ += done;
  }
  if (written_ - started_ < kStartBytes) return;
  ::sync_file_range(descriptor_, started_, written_ - started_, SYNC_FILE_RANGE_WRITE);
  started_ = written_;
}

ManifestFile RawFile::finish() {
  requested_.check("sync", path_);
  ARCHON_ENSURE(::fsync(descriptor_) == 0, "cannot sync {}: {}", path_, std::strerror(errno));
  ARCHON_ENSURE(::close(std::exchange(descriptor_, -1)) == 0, "cannot close {}: {}", path_,
                std::strerror(errno));
  return {std::filesystem::path(path_).filename().string(), written_, sum_.value()};
}

}  // namespace archon
