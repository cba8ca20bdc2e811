#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <string>

#include "archon/comm/mpi.hpp"

namespace archon {

/// Asks the other ranks of a group how far they are, when a collective on the GPU is late: the host
/// sees there only that it does not end. From one thread, which answers the others' questions too;
/// needs MPI_THREAD_MULTIPLE.
class RollCall {
 public:
  explicit RollCall(MpiComm comm);

  int rank() const { return rank_; }
  int size() const { return size_; }

  /// Answers who asks: `started` collectives so far.
  void answer(int64_t started);
  /// Which ranks have not started collective `number`, in words: "rank 2 has not started it (it is
  /// at number 7); no answer from rank 3". Waits for answers, and gives them, for `patience`.
  std::string absent(int64_t number, int64_t started, std::chrono::duration<double> patience);

 private:
  void send(int64_t value, int tag, int peer);
  bool take(int tag, int64_t& value, int& peer);

  struct Sent {
    int64_t value;
    MPI_Request request;
  };
  MpiComm comm_;
  int rank_ = 0, size_ = 1;
  bool usable_ = false;
  std::deque<Sent> sent_;  // MPI reads the values until the requests are complete
};

}  // namespace archon
