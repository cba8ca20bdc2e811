#include "raw_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <thread>
#include <utility>

#include "archon/base/error.hpp"
#include "archon/io/files.hpp"

namespace archon {
namespace {

/// The system begins to write to the disk when so many bytes have come together, not only when the
/// file is synced.
constexpr int64_t kStartBytes = int64_t{32} << 20;

std::string name_of(const std::string& path) {
  return std::filesystem::path(path).filename().string();
}

}  // namespace

SaveControl::SaveControl(int rank) {
  const char* variable = std::getenv("ARCHON_FAIL_CHECKPOINT");
  if (variable == nullptr) return;
  std::istringstream text(variable);
  std::string kind, at_rank = "0", nth = "1";
  std::getline(text, kind, ':') && std::getline(text, at_rank, ':') && std::getline(text, nth);
  if (rank == std::stoi(at_rank)) kind_ = kind;
  nth_ = std::stoll(nth);
}

void SaveControl::check(const char* kind, const std::string& path) const {
  ARCHON_ENSURE(!abandoned_, "{} was abandoned: the run has failed", path);
  if (!asked_for(kind)) return;
  throw_runtime_failure(fmt::format("cannot {} {}: {}", kind_ == "space" ? "write" : kind, path,
                                    std::strerror(kind_ == "space" ? ENOSPC : EIO)));
}

void SaveControl::check_write(const std::string& path) const {
  while (asked_for("stall") && !abandoned_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  check("space", path);
  check("write", path);
}

RawFile::RawFile(std::string path, Mode mode, const SaveControl& control)
    : path_(std::move(path)), control_(control) {
  control_.check("open", path_);
  const int create = mode == Mode::create ? O_CREAT | O_EXCL : 0;
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CLOEXEC | create, 0666);
  ARCHON_ENSURE(descriptor_ >= 0, "cannot open {}: {}{}", path_, std::strerror(errno),
                errno == ENOENT ? " (do all hosts share this folder?)" : "");
}

RawFile::~RawFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void RawFile::write(const void* bytes, std::size_t count) {
  control_.check_write(path_);
  sum_.add(bytes, count);
  const char* next = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t done = ::pwrite(descriptor_, next, count, at_);
    if (done < 0 && errno == EINTR) continue;
    ARCHON_ENSURE(done >= 0, "cannot write {}: {}", path_, std::strerror(errno));
    next += done;
    count -= static_cast<std::size_t>(done);
    at_ += done;
  }
  start_writing();
}

void RawFile::read(void* bytes, std::size_t count) {
  const int64_t done = read_at(descriptor_, bytes, count, at_);
  ARCHON_ENSURE(done == static_cast<int64_t>(count), "cannot read {}: {}", path_,
                done < 0 ? std::strerror(errno) : "it is too short");
  at_ += done;
  start_writing();
  sum_.add(bytes, count);
}

void RawFile::start_writing() {
  if (at_ - started_ < kStartBytes) return;
  ::sync_file_range(descriptor_, started_, at_ - started_, SYNC_FILE_RANGE_WRITE);
  started_ = at_;
}

void RawFile::skip(int64_t bytes) {
  int failed = 0;
  do {
    failed = ::fallocate(descriptor_, 0, at_, bytes);
  } while (failed != 0 && errno == EINTR);
  // Where space cannot be taken beforehand, the file has its length at least: HDF5 asks for that.
  if (failed != 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
    failed = ::ftruncate(descriptor_, at_ + bytes);
  ARCHON_ENSURE(failed == 0, "cannot write {}: {}", path_, std::strerror(errno));
  at_ += bytes;
}

ManifestFile RawFile::finish() {
  control_.check("sync", path_);
  ARCHON_ENSURE(::fsync(descriptor_) == 0, "cannot sync {}: {}", path_, std::strerror(errno));
  ARCHON_ENSURE(::close(std::exchange(descriptor_, -1)) == 0, "cannot close {}: {}", path_,
                std::strerror(errno));
  return {name_of(path_), at_, sum_.value()};
}

ManifestFile entry_of(const std::string& path) {
  ManifestFile file{name_of(path)};
  file.xxh3_64 = xxh3_64_of_file(path, &file.bytes);
  return file;
}

}  // namespace archon
