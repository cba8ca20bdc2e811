#include "archon/base/checksum.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "archon/base/error.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace archon {

struct Xxh3Stream::State {
  XXH3_state_t xxh;
};

uint64_t xxh3_64(const void* bytes, std::size_t count) { return XXH3_64bits(bytes, count); }

Xxh3Stream::Xxh3Stream() : state_(std::make_unique<State>()) { XXH3_64bits_reset(&state_->xxh); }

Xxh3Stream::~Xxh3Stream() = default;

void Xxh3Stream::add(const void* bytes, std::size_t count) {
  XXH3_64bits_update(&state_->xxh, bytes, count);
}

uint64_t Xxh3Stream::value() const { return XXH3_64bits_digest(&state_->xxh); }

uint64_t xxh3_64_of_file(const std::string& path, int64_t* bytes) {
  constexpr std::size_t kBlock = std::size_t{4} << 20;
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  ARCHON_ENSURE(descriptor >= 0, "cannot read {}: {}", path, std::strerror(errno));
  ::posix_fadvise(descriptor, 0, 0, POSIX_FADV_SEQUENTIAL);
  std::vector<char> block(kBlock);
  Xxh3Stream stream;
  int64_t total = 0;
  ssize_t count = 0;
  while ((count = ::read(descriptor, block.data(), block.size())) != 0) {
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) break;
    stream.add(block.data(), static_cast<std::size_t>(count));
    total += count;
  }
  const int reason = errno;
  ::close(descriptor);
  ARCHON_ENSURE(count == 0, "cannot read {}: {}", path, std::strerror(reason));
  if (bytes != nullptr) *bytes = total;
  return stream.value();
}

}  // namespace archon
