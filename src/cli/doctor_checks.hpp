#pragma once

#include <string>
#include <vector>

#include "archon/comm/communicator.hpp"
#include "options.hpp"

namespace archon::cli {

/// What a check found out about one part of the machine.
struct Finding {
  enum class Status { ok, failed, absent };  ///< absent: an optional part that is not there
  Status status = Status::ok;
  std::string detail;
};

/// Who started this process, or "". Ask before MPI_Init: it sets a launcher's variables itself.
std::string find_launcher();

// Each check uses the part it is about. All are collective over `world`, and throw when the part
// does not do what it should.

Finding check_mpi(const Communicator& world);
/// `launcher` as find_launcher() named it before MPI started.
Finding check_launcher(const std::string& launcher);
Finding check_pmix();
/// Ranks, hosts, and which ranks are where.
Finding check_hosts(const Communicator& world);
Finding check_memory();
/// LibTorch works with the stated number of threads.
Finding check_threads(int ranks_sharing_cores);
Finding check_libtorch();
/// One rank of every host writes a file and reads it back.
Finding check_hdf5(const Communicator& host);
/// The ranks of a host write one file together through MPI-IO.
Finding check_parallel_hdf5(const Communicator& host);
Finding check_plugins(const std::vector<std::string>& files);
Finding check_cuda();

}  // namespace archon::cli
