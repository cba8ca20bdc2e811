#pragma once

#include <mpi.h>

#include <string>

namespace archon {

/// Throws RuntimeFailure with MPI's own error text.
[[noreturn]] void throw_mpi_error(int code, const char* call, const char* file, int line);

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

/// Initialises MPI (MPI_THREAD_MULTIPLE where offered, at least MPI_THREAD_FUNNELED) and finalizes
/// it. One per process.
///
/// "World" is Archon's own part of the job: all of MPI_COMM_WORLD, until join_job has told which
/// processes belong to programs that were started beside Archon.
///
/// Leaving by an exception does not finalize (peers may be waiting in a collective); call
/// `abort` instead.
class MpiEnvironment {
 public:
  MpiEnvironment();
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;

  /// Exchanges roles with the other programs of the job (docs/weight-sync.md) and looks at what the
  /// ranks of this host share. `peer` is the role of the program that Archon sends weights to, or
  /// empty. InputError when there is no such program, or one that nothing is sent to. Collective
  /// over MPI_COMM_WORLD.
  void join_job(const std::string& peer = "");

  MPI_Comm world() const { return own_.get() == MPI_COMM_NULL ? MPI_COMM_WORLD : own_.get(); }
  int world_rank() const { return rank_; }
  int world_size() const { return size_; }
  /// Rank in MPI_COMM_WORLD of the peer's first process; -1 without a peer.
  int peer_leader() const { return peer_leader_; }
  /// Ranks of this host, this one included.
  int local_size() const { return local_size_; }
  /// Ranks of this host whose CPU affinity equals this rank's.
  int ranks_sharing_cores() const { return ranks_sharing_cores_; }

  /// Ends the whole job, all programs of it, with `exit_code`, after `message` on stderr. Lower
  /// ranks speak first (wait_for_lower_ranks), so that an error several share is printed once.
  [[noreturn]] void abort(const std::string& message, int exit_code);

 private:
  MpiComm own_;  // null until join_job
  int rank_ = 0;
  int size_ = 1;
  int peer_leader_ = -1;
  int local_size_ = 1;
  int ranks_sharing_cores_ = 1;
};

/// The role of Archon in the exchange of roles.
inline constexpr const char* kArchonRole = "archon";

/// Rank that a launcher's environment announces before MPI_Init (0 when there is no launcher).
int launcher_rank();
/// Whether this process is to tell what each of Archon's finds before MPI starts: the launcher's
/// rank 0, or the first rank of a program that was started beside others.
bool speaks_before_mpi();
/// Whether mpiexec, srun or another launcher started this process.
bool started_by_launcher();

/// Waits, longer the higher the rank (0 to 1.7 s), so that the lowest of the ranks that found the
/// same error tells it and ends the job before the others do.
void wait_for_lower_ranks(int rank);

}  // namespace archon

/// Calls MPI and throws when it does not return MPI_SUCCESS.
#define ARCHON_MPI(call)                                                     \
  do {                                                                       \
    const int archon_mpi_code = (call);                                      \
    if (archon_mpi_code != MPI_SUCCESS)                                      \
      ::archon::throw_mpi_error(archon_mpi_code, #call, __FILE__, __LINE__); \
  } while (false)
