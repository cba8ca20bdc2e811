#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace archon {

/// XXH3-64 with seed 0 (xxhash.com): finds damage, not malice.
uint64_t xxh3_64(const void* bytes, std::size_t count);

/// The same of bytes that come one block after the other.
class Xxh3Stream {
 public:
  Xxh3Stream();
  ~Xxh3Stream();
  Xxh3Stream(const Xxh3Stream&) = delete;
  Xxh3Stream& operator=(const Xxh3Stream&) = delete;
  void add(const void* bytes, std::size_t count);
  uint64_t value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Of a whole file; RuntimeFailure with the system's reason. `bytes` receives its size.
uint64_t xxh3_64_of_file(const std::string& path, int64_t* bytes = nullptr);

}  // namespace archon
