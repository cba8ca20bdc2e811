#pragma once

#include "archon/comm/communicator.hpp"

namespace archon::test {

/// A group of all ranks of the test.
inline Communicator world_group() {
  MPI_Comm comm = MPI_COMM_NULL;
  ARCHON_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
  return Communicator(MpiComm(comm), "world");
}

}  // namespace archon::test
