#include "archon/io/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "archon/base/error.hpp"

namespace archon {
namespace {

struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  ARCHON_VALIDATE(file.value >= 0, "cannot open {}: {}", path, std::strerror(errno));
  struct stat status {};
  ARCHON_VALIDATE(::fstat(file.value, &status) == 0, "cannot read {}: {}", path,
                  std::strerror(errno));
  ARCHON_VALIDATE(S_ISREG(status.st_mode), "cannot read {}: it is not a regular file", path);
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;  // mmap refuses empty files
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.value, 0);
  ARCHON_VALIDATE(address != MAP_FAILED, "cannot map {} ({} bytes): {}", path, size_,
                  std::strerror(errno));
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace archon
