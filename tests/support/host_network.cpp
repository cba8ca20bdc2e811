#include "support/host_network.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "archon/base/error.hpp"
#include "archon/comm/mpi.hpp"

namespace archon::test {
namespace {

constexpr auto kPause = std::chrono::microseconds(50);

}  // namespace

HostNetwork::HostNetwork() {
  int provided = MPI_THREAD_SINGLE;
  ARCHON_MPI(MPI_Query_thread(&provided));
  ARCHON_ENSURE(provided == MPI_THREAD_MULTIPLE, "the tests need an MPI with MPI_THREAD_MULTIPLE");
  ARCHON_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &comm_));
  ARCHON_MPI(MPI_Comm_rank(comm_, &rank_));
}

HostNetwork::~HostNetwork() { MPI_Comm_free(&comm_); }

HostNetwork::Sending::Sending(MPI_Comm comm, const Message& message, int peer, int tag)
    : packed_(sizeof message.announcement + message.bytes.size()) {
  std::memcpy(packed_.data(), &message.announcement, sizeof message.announcement);
  std::copy(message.bytes.begin(), message.bytes.end(),
            packed_.begin() + sizeof message.announcement);
  ARCHON_MPI(MPI_Isend(packed_.data(), static_cast<int>(packed_.size()), MPI_BYTE, peer, tag, comm,
                       &request_));
}

void HostNetwork::Sending::wait(const std::atomic<bool>& given_up) {
  for (int done = 0; done == 0 && !given_up;) {
    ARCHON_MPI(MPI_Test(&request_, &done, MPI_STATUS_IGNORE));
    if (done == 0) std::this_thread::sleep_for(kPause);
  }
}

Message HostNetwork::receive(int peer, int tag, const std::atomic<bool>& given_up) const {
  MPI_Message handle = MPI_MESSAGE_NULL;
  MPI_Status status;
  for (int there = 0; there == 0;) {
    if (given_up) return {};
    ARCHON_MPI(MPI_Improbe(peer, tag, comm_, &there, &handle, &status));
    if (there == 0) std::this_thread::sleep_for(kPause);
  }
  int size = 0;
  ARCHON_MPI(MPI_Get_count(&status, MPI_BYTE, &size));
  std::vector<char> packed(size);
  ARCHON_MPI(MPI_Mrecv(packed.data(), size, MPI_BYTE, &handle, MPI_STATUS_IGNORE));
  Message message;
  std::memcpy(&message.announcement, packed.data(), sizeof message.announcement);
  message.bytes.assign(packed.begin() + sizeof message.announcement, packed.end());
  return message;
}

}  // namespace archon::test
