#include "archon/comm/consumer_link.hpp"

#include <algorithm>
#include <cstddef>

#include "archon/comm/watchdog.hpp"

namespace archon {
namespace {

constexpr const char* kAxis = "the link to the consumer";

MpiComm connect(int leader) {
  const CollectiveScope scope("connection", kAxis, 1);
  MPI_Comm comm = MPI_COMM_NULL;
  ARCHON_MPI(MPI_Intercomm_create(MPI_COMM_SELF, 0, MPI_COMM_WORLD, leader, ARCHON_PUSH_TAG_CONNECT,
                                  &comm));
  ARCHON_MPI(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN));
  return MpiComm(comm);
}

}  // namespace

ConsumerLink::ConsumerLink(int leader) : comm_(connect(leader)) {}

bool ConsumerLink::has_request() const {
  int here = 0;
  ARCHON_MPI(MPI_Iprobe(0, ARCHON_PUSH_TAG_REQUEST, comm_.get(), &here, MPI_STATUS_IGNORE));
  return here != 0;
}

archon_push_request ConsumerLink::receive_request() const {
  int64_t request = ARCHON_PUSH_LEAVE;
  ARCHON_MPI(MPI_Recv(&request, sizeof request, MPI_BYTE, 0, ARCHON_PUSH_TAG_REQUEST, comm_.get(),
                      MPI_STATUS_IGNORE));
  return static_cast<archon_push_request>(request);
}

void ConsumerLink::send(const archon_push_begin& begin) const {
  const CollectiveScope scope("announcement", kAxis, begin.version);
  int processes = 0;
  ARCHON_MPI(MPI_Comm_remote_size(comm_.get(), &processes));
  for (int rank = 0; rank < processes; ++rank)
    ARCHON_MPI(MPI_Send(&begin, sizeof begin, MPI_BYTE, rank, ARCHON_PUSH_TAG_BEGIN, comm_.get()));
}

void ConsumerLink::send(const void* bytes, int64_t count, int64_t most) const {
  const CollectiveScope scope("broadcast", kAxis, count);
  // MPI_Bcast takes without const what it does not change.
  auto* const begin = static_cast<std::byte*>(const_cast<void*>(bytes));
  for (int64_t done = 0; done < count; done += most)
    ARCHON_MPI(MPI_Bcast(begin + done, static_cast<int>(std::min(most, count - done)), MPI_BYTE,
                         MPI_ROOT, comm_.get()));
}

}  // namespace archon
