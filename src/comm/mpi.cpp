#include "archon/comm/mpi.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

#include "archon/base/error.hpp"
#include "archon/comm/job.h"
#include "archon/comm/watchdog.hpp"
#include "progress.hpp"

namespace archon {
namespace {

constexpr auto kGraceBeforeOtherRanksSpeak = std::chrono::milliseconds(700);
constexpr auto kGracePerRank = std::chrono::milliseconds(100);
constexpr int kMostGraces = 10;
constexpr unsigned kAbortPatienceSeconds = 15;

// Names under which Open MPI, PMIx, MPICH and Slurm announce a process's rank.
constexpr std::array kRankVariables = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"};

int count_ranks_with_my_affinity(MPI_Comm local, int local_size) {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  if (sched_getaffinity(0, sizeof mine, &mine) != 0) return local_size;
  std::vector<cpu_set_t> all(local_size);
  ARCHON_MPI(MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all.data(), sizeof mine, MPI_BYTE, local));
  int same = 0;
  for (const cpu_set_t& set : all) same += CPU_EQUAL(&set, &mine) ? 1 : 0;
  return same;
}

/// "2 of role engine, 1 of role logger": the processes that are not Archon's; "" when there are
/// none.
std::string list_others(const std::vector<archon_job_member>& members) {
  std::map<std::string, int> processes;
  for (const archon_job_member& member : members)
    if (std::string(member.role) != kArchonRole) ++processes[member.role];
  std::string list;
  for (const auto& [role, count] : processes)
    list += fmt::format("{}{} of role {}", list.empty() ? "" : ", ", count, role);
  return list;
}

/// The peer must be there, and everybody else must be the peer: a program of another role waits for
/// weights that would never come.
void check_roles(const std::vector<archon_job_member>& members, const std::string& peer) {
  const std::string others = list_others(members);
  ARCHON_VALIDATE(
      peer.empty() || !others.empty(),
      "--push-weights {} has no program to send to: archon has this job to itself; start "
      "one beside it: mpiexec -n 4 archon train ... : -n 1 consumer",
      peer);
  for (const archon_job_member& member : members)
    ARCHON_VALIDATE(member.role == peer || std::string(member.role) == kArchonRole,
                    "beside archon there are processes in this job ({}) that wait for weights, and "
                    "{}; give --push-weights {}",
                    others,
                    peer.empty() ? "there is no --push-weights"
                                 : fmt::format("--push-weights {} names another role", peer),
                    member.role);
}

}  // namespace

void throw_mpi_error(int code, const char* call, const char* file, int line) {
  char text[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw_runtime_failure(fmt::format("{} failed: {} ({}:{})", call, text, file, line));
}

int launcher_rank() {
  for (const char* name : kRankVariables)
    if (const char* value = std::getenv(name)) return std::atoi(value);
  if (started_by_launcher())
    if (const char* value = std::getenv("SLURM_PROCID")) return std::atoi(value);
  return 0;
}

bool started_by_launcher() {
  for (const char* name : kRankVariables)
    if (std::getenv(name) != nullptr) return true;
  return std::getenv("SLURM_STEP_NUM_TASKS") != nullptr && std::getenv("SLURM_PROCID") != nullptr;
}

bool speaks_before_mpi() {
  const int rank = launcher_rank();
  // Open MPI tells the processes of each program, one after the other: "1 4".
  const char* const sizes = std::getenv("OMPI_APP_CTX_NUM_PROCS");
  std::istringstream words(sizes == nullptr ? "" : sizes);
  int first = 0;
  for (int size = 0; first < rank && words >> size;) first += size;
  return rank == 0 || (sizes != nullptr && first == rank);
}

MpiEnvironment::MpiEnvironment() {
  int provided = MPI_THREAD_SINGLE;
  {
    const CollectiveScope scope("MPI_Init", "MPI_COMM_WORLD", 1);
    ARCHON_MPI(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided));
  }
  ARCHON_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  ARCHON_ENSURE(provided >= MPI_THREAD_FUNNELED,
                "this MPI offers thread level {} only; Archon needs MPI_THREAD_FUNNELED, since "
                "other threads compute beside the one that communicates",
                provided);
  if (provided == MPI_THREAD_MULTIPLE) Progress::instance().enable();
  ARCHON_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
  ARCHON_MPI(MPI_Comm_size(MPI_COMM_WORLD, &size_));
}

void MpiEnvironment::join_job(const std::string& peer) {
  std::vector<archon_job_member> members(size_);
  MPI_Comm own = MPI_COMM_NULL;
  {
    const CollectiveScope scope("exchange of roles", "MPI_COMM_WORLD", 1);
    const StageScope stage(
        "start, the first messages between the ranks; their hosts must reach each other, and a "
        "program beside archon must call archon_consumer_connect");
    ARCHON_MPI(archon_join_job(kArchonRole, peer.c_str(), members.data(), &own));
  }
  own_ = MpiComm(own);
  ARCHON_MPI(MPI_Comm_rank(own, &rank_));
  ARCHON_MPI(MPI_Comm_size(own, &size_));
  check_roles(members, peer);
  peer_leader_ =
      archon_first_of_role(members.data(), static_cast<int>(members.size()), peer.c_str());

  MPI_Comm local = MPI_COMM_NULL;
  ARCHON_MPI(MPI_Comm_split_type(own, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &local));
  const MpiComm owned(local);
  ARCHON_MPI(MPI_Comm_size(local, &local_size_));
  ranks_sharing_cores_ = count_ranks_with_my_affinity(local, local_size_);
}

MpiEnvironment::~MpiEnvironment() {
  // While unwinding, peers may wait in a collective that this rank will never enter.
  if (std::uncaught_exceptions() > 0) return;
  Progress::instance().stop();
  own_ = MpiComm();
  MPI_Finalize();
}

void wait_for_lower_ranks(int rank) {
  if (rank == 0) return;
  std::this_thread::sleep_for(kGraceBeforeOtherRanksSpeak +
                              kGracePerRank * std::min(rank, kMostGraces));
}

void MpiEnvironment::abort(const std::string& message, int exit_code) {
  // Neither a reader that does not read nor a launcher that does not answer may keep a job alive.
  std::signal(SIGALRM, SIG_DFL);
  ::alarm(kAbortPatienceSeconds);
  wait_for_lower_ranks(rank_);
  std::fflush(stdout);
  std::fputs(message.c_str(), stderr);
  std::fflush(stderr);
  int job_size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &job_size);
  if (job_size > 1) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

MpiComm::MpiComm(MpiComm&& other) noexcept : comm_(std::exchange(other.comm_, MPI_COMM_NULL)) {}

MpiComm& MpiComm::operator=(MpiComm&& other) noexcept {
  if (this != &other) {
    free();
    comm_ = std::exchange(other.comm_, MPI_COMM_NULL);
  }
  return *this;
}

MpiComm::~MpiComm() { free(); }

void MpiComm::free() noexcept {
  if (comm_ == MPI_COMM_NULL) return;
  int finalized = 0;
  MPI_Finalized(&finalized);
  // MPI_Comm_free is collective: while unwinding it could wait for ranks that never come.
  if (finalized == 0 && std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
  comm_ = MPI_COMM_NULL;
}

}  // namespace archon
