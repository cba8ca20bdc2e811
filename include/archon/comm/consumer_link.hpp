#pragma once

#include "archon/comm/mpi.hpp"
#include "archon/comm/push_protocol.h"

namespace archon {

/// The inter-communicator between one rank of Archon and the processes of a consumer, and the
/// messages that push_protocol.h names. The watchdog knows of every wait but that for a request.
class ConsumerLink {
 public:
  /// `leader`: the consumer's first rank in MPI_COMM_WORLD. Collective with the consumer.
  explicit ConsumerLink(int leader);

  /// Whether a request is there already.
  bool has_request() const;
  /// Waits for one.
  archon_push_request receive_request() const;
  /// Answers it, to each process of the consumer.
  void send(const archon_push_begin& begin) const;
  /// Broadcasts to all of them, at most `most` (below 2^31) bytes at a time.
  void send(const void* bytes, int64_t count, int64_t most) const;

 private:
  MpiComm comm_;
};

}  // namespace archon
