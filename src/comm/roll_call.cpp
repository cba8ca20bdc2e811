#include "roll_call.hpp"

#include <fmt/format.h>

#include <iterator>
#include <thread>
#include <utility>
#include <vector>

namespace archon {
namespace {

constexpr int kQuestion = 1, kAnswer = 2;
constexpr auto kPause = std::chrono::milliseconds(2);
constexpr int64_t kSilent = -1;

}  // namespace

RollCall::RollCall(MpiComm comm) : comm_(std::move(comm)) {
  ARCHON_MPI(MPI_Comm_rank(comm_.get(), &rank_));
  ARCHON_MPI(MPI_Comm_size(comm_.get(), &size_));
  int provided = MPI_THREAD_SINGLE;
  ARCHON_MPI(MPI_Query_thread(&provided));
  usable_ = provided == MPI_THREAD_MULTIPLE;
}

void RollCall::send(int64_t value, int tag, int peer) {
  Sent& sent = sent_.emplace_back(Sent{value, MPI_REQUEST_NULL});
  ARCHON_MPI(MPI_Isend(&sent.value, 1, MPI_INT64_T, peer, tag, comm_.get(), &sent.request));
}

bool RollCall::take(int tag, int64_t& value, int& peer) {
  int there = 0;
  MPI_Status status;
  ARCHON_MPI(MPI_Iprobe(MPI_ANY_SOURCE, tag, comm_.get(), &there, &status));
  if (there == 0) return false;
  peer = status.MPI_SOURCE;
  ARCHON_MPI(MPI_Recv(&value, 1, MPI_INT64_T, peer, tag, comm_.get(), MPI_STATUS_IGNORE));
  return true;
}

void RollCall::answer(int64_t started) {
  if (!usable_) return;
  int64_t ignored = 0;
  int peer = 0;
  while (take(kQuestion, ignored, peer)) send(started, kAnswer, peer);
  while (!sent_.empty()) {
    int done = 0;
    ARCHON_MPI(MPI_Test(&sent_.front().request, &done, MPI_STATUS_IGNORE));
    if (done == 0) break;
    sent_.pop_front();
  }
}

std::string RollCall::absent(int64_t number, int64_t started,
                             std::chrono::duration<double> patience) {
  if (!usable_) return "which ranks are absent cannot be asked: MPI lacks MPI_THREAD_MULTIPLE";
  std::vector<int64_t> at(size_, kSilent);
  at[rank_] = started;
  for (int peer = 0; peer < size_; ++peer)
    if (peer != rank_) send(0, kQuestion, peer);
  const auto until = std::chrono::steady_clock::now() + patience;
  for (int answers = 1; answers < size_ && std::chrono::steady_clock::now() < until;) {
    answer(started);
    int64_t value = 0;
    for (int peer = 0; take(kAnswer, value, peer); ++answers) at[peer] = value;
    std::this_thread::sleep_for(kPause);
  }
  std::string text;
  for (int peer = 0; peer < size_; ++peer) {
    if (at[peer] >= number) continue;
    text += text.empty() ? "" : "; ";
    text += at[peer] == kSilent
                ? fmt::format("no answer from rank {}", peer)
                : fmt::format("rank {} has not started it (it is at number {})", peer, at[peer]);
  }
  return text.empty() ? "all ranks have started it" : text;
}

}  // namespace archon
