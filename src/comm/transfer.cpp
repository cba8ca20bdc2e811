#include "transfer.hpp"

#include <algorithm>

#include "archon/base/error.hpp"
#include "archon/comm/mpi.hpp"
#include "progress.hpp"

namespace archon {
namespace {

constexpr int kTag = 1;

// Any type of the right size does: MPI only copies.
MPI_Datatype datatype_of_size(std::size_t bytes) {
  switch (bytes) {
    case 1:
      return MPI_UINT8_T;
    case 2:
      return MPI_UINT16_T;
    case 4:
      return MPI_UINT32_T;
    case 8:
      return MPI_UINT64_T;
  }
  throw_runtime_failure(fmt::format("no MPI type for elements of {} bytes", bytes));
}

}  // namespace

Transfer::Transfer(MPI_Comm comm, bool async, int64_t max_count)
    : comm_(comm), async_(async), max_count_(max_count) {
  ARCHON_MPI(MPI_Comm_rank(comm_, &rank_));
  ARCHON_MPI(MPI_Comm_size(comm_, &size_));
}

const int* Transfer::keep(const std::vector<int64_t>& values) {
  return kept_.emplace_back(values.begin(), values.end()).data();
}

MPI_Request* Transfer::new_request() { return &requests_.emplace_back(MPI_REQUEST_NULL); }

Transfer::~Transfer() { Progress::instance().remove(*this); }

void Transfer::started(const TraceOperation& operation) {
  operation_ = operation;
  if (requests_.empty())
    complete();
  else
    Progress::instance().add(*this);
}

void Transfer::complete() {
  if (operation_) operation_->complete();
  operation_.reset();
}

bool Transfer::poll() noexcept {
  int done = 0;
  poll_error_ =
      MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, MPI_STATUSES_IGNORE);
  if (done != 0) complete();
  return done != 0 || poll_error_ != MPI_SUCCESS;
}

void Transfer::settle() {
  if (!async_) wait();
}

void Transfer::wait() {
  if (requests_.empty()) return;
  Progress::instance().remove(*this);
  ARCHON_MPI(poll_error_);
  ARCHON_MPI(
      MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE));
  complete();
  requests_.clear();
}

void Transfer::send_pieces(const char* data, int64_t count, int peer, std::size_t element_size) {
  for (int64_t at = 0; at < count; at += max_count_)
    ARCHON_MPI(MPI_Isend(data + at * element_size,
                         static_cast<int>(std::min(max_count_, count - at)),
                         datatype_of_size(element_size), peer, kTag, comm_, new_request()));
}

void Transfer::receive_pieces(char* data, int64_t count, int peer, std::size_t element_size) {
  for (int64_t at = 0; at < count; at += max_count_)
    ARCHON_MPI(MPI_Irecv(data + at * element_size,
                         static_cast<int>(std::min(max_count_, count - at)),
                         datatype_of_size(element_size), peer, kTag, comm_, new_request()));
}

void Transfer::exchange_pairwise(const char* send, const Blocks& send_blocks, char* receive,
                                 const Blocks& receive_blocks, std::size_t element_size,
                                 bool copy_own) {
  for (int step = 1; step < size_; ++step) {
    const int peer = (rank_ + size_ - step) % size_;
    receive_pieces(receive + receive_blocks.offsets[peer] * element_size,
                   receive_blocks.counts[peer], peer, element_size);
  }
  for (int step = 1; step < size_; ++step) {
    const int peer = (rank_ + step) % size_;
    send_pieces(send + send_blocks.offsets[peer] * element_size, send_blocks.counts[peer], peer,
                element_size);
  }
  if (copy_own)
    std::copy_n(send + send_blocks.offsets[rank_] * element_size,
                send_blocks.counts[rank_] * element_size,
                receive + receive_blocks.offsets[rank_] * element_size);
  settle();
}

void Transfer::exchange_others(const void* send, const Blocks& send_blocks, void* receive,
                               const Blocks& receive_blocks, std::size_t element_size) {
  exchange_pairwise(static_cast<const char*>(send), send_blocks, static_cast<char*>(receive),
                    receive_blocks, element_size, /*copy_own=*/false);
}

void Transfer::all_to_all_even(const void* send, void* receive, int64_t block,
                               std::size_t element_size) {
  if (block * size_ > max_count_) {
    const Blocks blocks = Blocks::even(size_, block);
    exchange_pairwise(static_cast<const char*>(send), blocks, static_cast<char*>(receive), blocks,
                      element_size);
    return;
  }
  const MPI_Datatype type = datatype_of_size(element_size);
  const int count = static_cast<int>(block);
  if (async_)
    ARCHON_MPI(MPI_Ialltoall(send, count, type, receive, count, type, comm_, new_request()));
  else
    ARCHON_MPI(MPI_Alltoall(send, count, type, receive, count, type, comm_));
}

void Transfer::all_to_all_uneven(const void* send, const Blocks& send_blocks, void* receive,
                                 const Blocks& receive_blocks, std::size_t element_size) {
  // Not MPI_Alltoallv: whether a count overflows is known to one pair of ranks only, and a
  // collective must be chosen by all alike.
  exchange_pairwise(static_cast<const char*>(send), send_blocks, static_cast<char*>(receive),
                    receive_blocks, element_size);
}

void Transfer::all_gather(const void* send, void* receive, const Blocks& blocks,
                          std::size_t element_size, bool in_place) {
  if (blocks.total() > max_count_) {
    gather_pairwise(static_cast<const char*>(send), static_cast<char*>(receive), blocks,
                    element_size, in_place);
    return;
  }
  if (in_place) send = MPI_IN_PLACE;
  const MPI_Datatype type = datatype_of_size(element_size);
  const int count = static_cast<int>(blocks.counts[rank_]);
  if (blocks.equal()) {
    if (async_)
      ARCHON_MPI(MPI_Iallgather(send, count, type, receive, count, type, comm_, new_request()));
    else
      ARCHON_MPI(MPI_Allgather(send, count, type, receive, count, type, comm_));
    return;
  }
  const int* counts = keep(blocks.counts);
  const int* offsets = keep(blocks.offsets);
  if (async_)
    ARCHON_MPI(
        MPI_Iallgatherv(send, count, type, receive, counts, offsets, type, comm_, new_request()));
  else
    ARCHON_MPI(MPI_Allgatherv(send, count, type, receive, counts, offsets, type, comm_));
}

void Transfer::gather_pairwise(const char* send, char* receive, const Blocks& blocks,
                               std::size_t element_size, bool in_place) {
  for (int step = 1; step < size_; ++step) {
    const int peer = (rank_ + size_ - step) % size_;
    receive_pieces(receive + blocks.offsets[peer] * element_size, blocks.counts[peer], peer,
                   element_size);
  }
  for (int step = 1; step < size_; ++step)
    send_pieces(send, blocks.counts[rank_], (rank_ + step) % size_, element_size);
  if (!in_place)
    std::copy_n(send, blocks.counts[rank_] * element_size,
                receive + blocks.offsets[rank_] * element_size);
  settle();
}

void Transfer::broadcast(void* data, int64_t count, std::size_t element_size, int root) {
  const MPI_Datatype type = datatype_of_size(element_size);
  for (int64_t at = 0; at < count; at += max_count_) {
    void* piece = static_cast<char*>(data) + at * element_size;
    const int n = static_cast<int>(std::min(max_count_, count - at));
    if (async_)
      ARCHON_MPI(MPI_Ibcast(piece, n, type, root, comm_, new_request()));
    else
      ARCHON_MPI(MPI_Bcast(piece, n, type, root, comm_));
  }
}

void Transfer::barrier() {
  if (async_)
    ARCHON_MPI(MPI_Ibarrier(comm_, new_request()));
  else
    ARCHON_MPI(MPI_Barrier(comm_));
}

}  // namespace archon
