#include <functional>
#include <iostream>

#include "archon/base/error.hpp"
#include "archon/base/version.hpp"
#include "command.hpp"
#include "doctor_checks.hpp"
#include "table.hpp"

namespace archon::cli {
namespace {

using Status = Finding::Status;

constexpr int kExitDone = 0;
constexpr int kExitFailed = 3;

struct Check {
  std::string part;
  std::function<Finding()> run;
};

std::string status_name(Status status) {
  switch (status) {
    case Status::ok:
      return "OK";
    case Status::failed:
      return "FAILED";
    case Status::absent:
      return "absent (optional)";
  }
  return "";
}

Finding run_check(const Check& check) {
  try {
    return check.run();
  } catch (const std::exception& error) {
    const std::string text = error.what();
    return {Status::failed, text.substr(0, text.find('\n'))};
  }
}

// What the ranks found together: the finding of the first rank that failed, else of the first where
// the part is absent, else rank 0's.
Finding agree(const Finding& mine, const Communicator& world) {
  for (const Status status : {Status::failed, Status::absent}) {
    const bool found = mine.status == status;
    const auto speaker = static_cast<int>(
        world.all_reduce(static_cast<int64_t>(found ? world.rank() : world.size()), ReduceOp::min));
    if (speaker == world.size()) continue;
    const auto text = world.broadcast(mine.detail, speaker);
    // What is absent on rank 0 is so on all, as a rule.
    const bool of_all = world.size() == 1 || (status == Status::absent && speaker == 0);
    return {status, of_all ? text : fmt::format("rank {}: {}", speaker, text)};
  }
  return mine;
}

Communicator world_communicator(MPI_Comm world) {
  MPI_Comm copy = MPI_COMM_NULL;
  ARCHON_MPI(MPI_Comm_dup(world, &copy));
  return {MpiComm(copy), "world"};
}

Communicator host_communicator(const MpiEnvironment& mpi) {
  MPI_Comm host = MPI_COMM_NULL;
  ARCHON_MPI(MPI_Comm_split_type(mpi.world(), MPI_COMM_TYPE_SHARED, mpi.world_rank(), MPI_INFO_NULL,
                                 &host));
  return {MpiComm(host), "host"};
}

class DoctorCommand : public ParallelCommand {
  void declare(OptionSet& options) override {
    options.group("Options");
    add_plugin_option(options, session_.plugins);
    add_process_options(options, session_);
  }

  std::string details() const override {
    return "Exit code 0 when every needed part works, 3 when one does not. Optional parts may be\n"
           "absent.";
  }

  std::vector<std::pair<std::string, std::string>> examples() const override {
    return {{"archon doctor", "this machine, on one rank"},
            {"mpiexec -n 4 archon doctor", "the same as a job sees it"}};
  }

  int run(MpiEnvironment& mpi) override {
    const auto world = world_communicator(mpi.world());
    const auto host = host_communicator(mpi);
    // Threads come before anything that computes: LibTorch's pool starts with its first work.
    const std::vector<Check> checks = {
        {"threads", [&] { return check_threads(mpi.ranks_sharing_cores()); }},
        {"MPI", [&] { return check_mpi(world); }},
        {"launcher", [&] { return check_launcher(launcher_); }},
        {"PMIx", check_pmix},
        {"ranks", [&] { return check_hosts(world); }},
        {"memory", check_memory},
        {"LibTorch", check_libtorch},
        {"HDF5", [&] { return check_hdf5(host); }},
        {"parallel HDF5", [&] { return check_parallel_hdf5(host); }},
        {"plugins", [&] { return check_plugins(session_.plugins); }},
        {"CUDA", check_cuda}};

    Table table;
    int failed = 0;
    for (const Check& check : checks) {
      const Finding finding = agree(run_check(check), world);
      failed += finding.status == Status::failed ? 1 : 0;
      table.add({check.part, status_name(finding.status), finding.detail});
    }
    if (mpi.world_rank() == 0) {
      std::cout << "archon " << version() << '\n';
      table.print(std::cout);
      std::cout << (failed == 0 ? "every needed part works\n"
                                : fmt::format("{} of the needed parts failed\n", failed));
    }
    // After a file that could not be written HDF5 crashes where MPI ends as usual.
    if (failed > 0) mpi.abort("", kExitFailed);
    return kExitDone;
  }

  const std::string launcher_ = find_launcher();
};

}  // namespace

std::unique_ptr<Command> make_doctor() { return std::make_unique<DoctorCommand>(); }

}  // namespace archon::cli
