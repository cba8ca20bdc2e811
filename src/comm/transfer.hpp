#pragma once

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "archon/base/trace.hpp"
#include "blocks.hpp"

namespace archon {

/// Moves bytes between the ranks of one MPI communicator: blocking, or started now and waited
/// for later. Blocks that exceed MPI's int counts go pairwise in pieces.
class Transfer {
 public:
  Transfer(MPI_Comm comm, bool async, int64_t max_count);
  ~Transfer();
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  /// Blocks of `block` elements, the same on all ranks.
  void all_to_all_even(const void* send, void* receive, int64_t block, std::size_t element_size);
  void all_to_all_uneven(const void* send, const Blocks& send_blocks, void* receive,
                         const Blocks& receive_blocks, std::size_t element_size);
  /// As all_to_all_uneven, but this rank's own block stays where it is.
  void exchange_others(const void* send, const Blocks& send_blocks, void* receive,
                       const Blocks& receive_blocks, std::size_t element_size);
  /// In place, `send` is this rank's block of `receive`; on every rank or on none.
  void all_gather(const void* send, void* receive, const Blocks& blocks, std::size_t element_size,
                  bool in_place = false);
  void broadcast(void* data, int64_t count, std::size_t element_size, int root);
  void barrier();

  /// Call when everything was started: an asynchronous transfer moves on by itself then. When it
  /// is complete, whoever notices first says so of `operation`.
  void started(const TraceOperation& operation);
  /// Returns at once when the transfer was blocking.
  void wait();
  /// Lets MPI work on it; true when there is nothing left to do. From the progress thread.
  bool poll() noexcept;

 private:
  void exchange_pairwise(const char* send, const Blocks& send_blocks, char* receive,
                         const Blocks& receive_blocks, std::size_t element_size,
                         bool copy_own = true);
  void gather_pairwise(const char* send, char* receive, const Blocks& blocks,
                       std::size_t element_size, bool in_place);
  void send_pieces(const char* data, int64_t count, int peer, std::size_t element_size);
  void receive_pieces(char* data, int64_t count, int peer, std::size_t element_size);
  void complete();
  /// Integer copies that MPI may read until wait returns.
  const int* keep(const std::vector<int64_t>& values);
  MPI_Request* new_request();
  void settle();

  MPI_Comm comm_;
  bool async_;
  int64_t max_count_;
  int rank_ = 0;
  int size_ = 1;
  std::vector<MPI_Request> requests_;
  int poll_error_ = MPI_SUCCESS;  // told by wait, since the progress thread may not throw
  std::deque<std::vector<int>> kept_;
  std::optional<TraceOperation> operation_;  // until it is complete
};

}  // namespace archon
