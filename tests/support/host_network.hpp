#pragma once

#include <mpi.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace archon::test {

/// What one rank says of an operation before its bytes; both sides must say the same.
struct Announcement {
  int64_t number = 0;  ///< of the collective, on this communicator
  int64_t kind = 0, bytes = 0, type = 0, reduce = 0, root = 0;

  bool operator==(const Announcement&) const = default;
};

struct Message {
  Announcement announcement;
  std::vector<char> bytes;
};

/// Moves messages between the real processes of a test, from any thread. A wait ends early, with an
/// empty message, once `given_up` is set.
class HostNetwork {
 public:
  /// Collective over MPI_COMM_WORLD; needs MPI_THREAD_MULTIPLE.
  HostNetwork();
  ~HostNetwork();

  /// A message on its way: the bytes must stay until `wait`.
  class Sending {
   public:
    Sending(MPI_Comm comm, const Message& message, int peer, int tag);
    void wait(const std::atomic<bool>& given_up);

   private:
    std::vector<char> packed_;
    MPI_Request request_ = MPI_REQUEST_NULL;
  };

  int rank() const { return rank_; }
  Sending send(const Message& message, int peer, int tag) const {
    return Sending(comm_, message, peer, tag);
  }
  Message receive(int peer, int tag, const std::atomic<bool>& given_up) const;

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
};

}  // namespace archon::test
