#pragma once

#include <mpi.h>

#include <string>

namespace archon {

/// Throws RuntimeFailure with MPI's own error text.
[[noreturn]] void throw_mpi_error(int code, const char* call, const char* file, int line);

/// Initialises MPI (MPI_THREAD_MULTIPLE where offered, at least MPI_THREAD_FUNNELED) and finalizes
/// it. One per process.
///
/// Leaving by an exception does not finalize (peers may be waiting in a collective); call
/// `abort` instead.
class MpiEnvironment {
 public:
  MpiEnvironment();
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;

  int world_rank() const { return rank_; }
  int world_size() const { return size_; }
  /// Ranks of this host, this one included.
  int local_size() const { return local_size_; }
  /// Ranks of this host whose CPU affinity equals this rank's.
  int ranks_sharing_cores() const { return ranks_sharing_cores_; }

  /// Ends the whole job with `exit_code`, after `message` was written to stderr. Lower ranks speak
  /// first (wait_for_lower_ranks), so that an error several ranks share is printed once.
  [[noreturn]] void abort(const std::string& message, int exit_code);

 private:
  int rank_ = 0;
  int size_ = 1;
  int local_size_ = 1;
  int ranks_sharing_cores_ = 1;
};

/// Rank that a launcher's environment announces before MPI_Init (0 when there is no launcher).
int launcher_rank();
/// Whether mpiexec, srun or another launcher started this process.
bool started_by_launcher();

/// Waits, longer the higher the rank (0 to 1.7 s), so that the lowest of the ranks that found the
/// same error tells it and ends the job before the others do.
void wait_for_lower_ranks(int rank);

/// Move-only owner of an MPI communicator; frees it, unless MPI is finalized already or an
/// exception is on its way (freeing is collective, and the peers may never come).
class MpiComm {
 public:
  MpiComm() = default;
  explicit MpiComm(MPI_Comm owned) : comm_(owned) {}
  MpiComm(MpiComm&& other) noexcept;
  MpiComm& operator=(MpiComm&& other) noexcept;
  ~MpiComm();

  MPI_Comm get() const { return comm_; }

 private:
  void free() noexcept;
  MPI_Comm comm_ = MPI_COMM_NULL;
};

}  // namespace archon

/// Calls MPI and throws when it does not return MPI_SUCCESS.
#define ARCHON_MPI(call)                                                     \
  do {                                                                       \
    const int archon_mpi_code = (call);                                      \
    if (archon_mpi_code != MPI_SUCCESS)                                      \
      ::archon::throw_mpi_error(archon_mpi_code, #call, __FILE__, __LINE__); \
  } while (false)
