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
#include <thread>
#include <utility>
#include <vector>

#include "archon/base/error.hpp"
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

MpiEnvironment::MpiEnvironment() {
  int provided = MPI_THREAD_SINGLE;
  ARCHON_MPI(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided));
  ARCHON_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  ARCHON_ENSURE(provided >= MPI_THREAD_FUNNELED,
                "this MPI offers thread level {} only; Archon needs MPI_THREAD_FUNNELED, since "
                "other threads compute beside the one that communicates",
                provided);
  if (provided == MPI_THREAD_MULTIPLE) Progress::instance().enable();
  ARCHON_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
  ARCHON_MPI(MPI_Comm_size(MPI_COMM_WORLD, &size_));
  MPI_Comm local = MPI_COMM_NULL;
  ARCHON_MPI(
      MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &local));
  const MpiComm owned(local);
  ARCHON_MPI(MPI_Comm_size(local, &local_size_));
  ranks_sharing_cores_ = count_ranks_with_my_affinity(local, local_size_);
}

MpiEnvironment::~MpiEnvironment() {
  // While unwinding, peers may wait in a collective that this rank will never enter.
  if (std::uncaught_exceptions() > 0) return;
  Progress::instance().stop();
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
  if (size_ > 1) MPI_Abort(MPI_COMM_WORLD, exit_code);
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
