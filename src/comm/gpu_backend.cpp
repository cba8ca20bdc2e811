#include "gpu_backend.hpp"

#include <ATen/ops/amax.h>
#include <ATen/ops/amin.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <thread>
#include <utility>

#include "archon/base/activity.hpp"
#include "archon/base/error.hpp"

namespace archon {
namespace {

// NCCL takes most calls in within some microseconds, and a sleep takes more than it is asked for.
constexpr auto kSettleSpin = std::chrono::microseconds(200);
constexpr auto kSettlePause = std::chrono::microseconds(100);
constexpr auto kRollCallPatience = std::chrono::milliseconds(1000);

// NCCL would round sums of these types at every hop.
bool narrow(const at::Tensor& tensor) { return c10::isReducedFloatingType(tensor.scalar_type()); }

const char* at_block(const at::Tensor& tensor, const Blocks& blocks, int block) {
  return static_cast<const char*>(tensor.const_data_ptr()) +
         blocks.offsets[block] * tensor.element_size();
}

at::Tensor block_of(const at::Tensor& tensor, const Blocks& blocks, int block) {
  return tensor.view({-1}).narrow(0, blocks.offsets[block], blocks.counts[block]);
}

/// `parts` [ranks, elements] reduced over the ranks into `output`, in float32.
void reduce_parts(at::Tensor output, const at::Tensor& parts, ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      output.copy_(at::sum(parts, 0, /*keepdim=*/false, at::kFloat));
      break;
    case ReduceOp::max:
      output.copy_(at::amax(parts, 0));
      break;
    case ReduceOp::min:
      output.copy_(at::amin(parts, 0));
      break;
  }
}

}  // namespace

GpuBackend::GpuBackend(GpuRuntime& runtime, GpuRuntime::Comm comm, MpiComm roll, const char* axis)
    : runtime_(runtime),
      comm_(comm),
      roll_call_(std::move(roll)),
      axis_(axis),
      rank_(roll_call_.rank()),
      size_(roll_call_.size()),
      stream_(runtime.create_stream()) {
  const CollectiveScope scope("making of the NCCL communicator", axis_, 1);
  settle("ncclCommInitRank");
  watch(*this);
}

GpuBackend::~GpuBackend() {
  unwatch(*this);
  // Peers of a rank that unwinds never come to the end of the communicator.
  if (std::uncaught_exceptions() > 0) {
    runtime_.abort(comm_);
    return;
  }
  try {
    runtime_.destroy(comm_);
  } catch (const std::exception&) {
    runtime_.abort(comm_);
  }
}

void GpuBackend::settle(const char* call) {
  const auto begin = std::chrono::steady_clock::now();
  // Of a communicator that the watchdog ended nothing is left to look at, and the process ends too.
  while (ended_ || runtime_.state(comm_) == GpuRuntime::CommState::in_progress) {
    if (std::chrono::steady_clock::now() - begin < kSettleSpin)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(kSettlePause);
  }
  ARCHON_ENSURE(runtime_.state(comm_) == GpuRuntime::CommState::ready, "{} failed over {}: {}",
                call, axis_, runtime_.failure(comm_));
}

GpuRuntime::Comm GpuBackend::split(int color, int key) {
  const CollectiveScope scope("split of the NCCL communicator", axis_, 1);
  const std::lock_guard calls(calls_);
  GpuRuntime::Comm part = nullptr;
  runtime_.split(comm_, color, key, part);
  settle("ncclCommSplit");
  return part;
}

template <class Body>
Work GpuBackend::launch(const Operation& operation, std::initializer_list<at::Tensor> tensors,
                        Body body) {
  const ActivityScope activity(Activity::communication, operation.name,
                               {.axis = operation.axis, .bytes = operation.bytes});
  {
    // The host waits here only where NCCL's queue is full, or a peer does not come to a first call.
    const CollectiveScope scope(operation.name, operation.axis, operation.number);
    runtime_.wait(stream_, runtime_.record(runtime_.current_stream()));
    for (const at::Tensor& tensor : tensors) runtime_.keep_for(stream_, tensor);
    started_ = operation.number;
    const std::lock_guard calls(calls_);
    body();
    settle(operation.name);
  }
  const GpuRuntime::Event done = runtime_.record(stream_);
  {
    const std::lock_guard lock(mutex_);
    forget_done();
    under_way_.push_back({operation, done, std::chrono::steady_clock::now()});
  }
  Work work([&runtime = runtime_, done] { runtime.wait(runtime.current_stream(), done); });
  if (!operation.async) work.wait();
  return work;
}

void GpuBackend::exchange(const at::Tensor& output, const Blocks& output_blocks,
                          const at::Tensor& input, const Blocks& input_blocks) {
  const auto element = static_cast<int64_t>(input.element_size());
  runtime_.group_start();
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    if (input_blocks.counts[peer] > 0)
      runtime_.send(comm_, at_block(input, input_blocks, peer), input_blocks.counts[peer] * element,
                    peer, stream_);
    if (output_blocks.counts[peer] > 0)
      runtime_.receive(comm_, const_cast<char*>(at_block(output, output_blocks, peer)),
                       output_blocks.counts[peer] * element, peer, stream_);
  }
  runtime_.group_end();
  settle("ncclGroupEnd");
}

void GpuBackend::exchange_all(const at::Tensor& output, const Blocks& output_blocks,
                              const at::Tensor& input, const Blocks& input_blocks) {
  exchange(output, output_blocks, input, input_blocks);
  runtime_.run_on(stream_, [=, rank = rank_] {
    block_of(output, output_blocks, rank)
        .copy_(block_of(input, input_blocks, rank), /*non_blocking=*/true);
  });
}

void GpuBackend::gather(const at::Tensor& output, const Blocks& blocks, const at::Tensor& input) {
  if (blocks.equal()) {
    runtime_.all_gather(comm_, input.const_data_ptr(), output.data_ptr(),
                        static_cast<int64_t>(input.nbytes()), stream_);
    settle("ncclAllGather");
    return;
  }
  // Every rank gets the same block: all of the input.
  Blocks whole = Blocks::even(size_, input.numel());
  std::fill(whole.offsets.begin(), whole.offsets.end(), 0);
  exchange_all(output, blocks, input, whole);
}

Work GpuBackend::all_reduce_narrow(const Operation& operation, at::Tensor flat, ReduceOp op) {
  if (static_cast<int64_t>(flat.nbytes()) <= Communicator::kSmallReduceBytes) {
    const at::Tensor all = at::empty({size_, flat.numel()}, flat.options());
    return launch(operation, {flat, all}, [&] {
      gather(all, Blocks::even(size_, flat.numel()), flat);
      runtime_.run_on(stream_, [=] { reduce_parts(flat, all, op); });
    });
  }
  const Blocks blocks = Blocks::balanced(size_, flat.numel());
  const int64_t mine = blocks.counts[rank_];
  const at::Tensor parts = at::empty({size_, mine}, flat.options());
  const at::Tensor sum = at::empty({mine}, flat.options());
  return launch(operation, {flat, parts, sum}, [&] {
    exchange_all(parts, Blocks::even(size_, mine), flat, blocks);
    runtime_.run_on(stream_, [=] { reduce_parts(sum, parts, op); });
    gather(flat, blocks, sum);
  });
}

Work GpuBackend::all_reduce(const Operation& operation, at::Tensor flat, ReduceOp op) {
  if (narrow(flat)) return all_reduce_narrow(operation, std::move(flat), op);
  return launch(operation, {flat}, [&] {
    runtime_.all_reduce(comm_, flat.data_ptr(), flat.numel(), flat.scalar_type(), op, stream_);
  });
}

Work GpuBackend::all_gather(const Operation& operation, at::Tensor output, at::Tensor input,
                            Blocks blocks) {
  return launch(operation, {output, input}, [&] { gather(output, blocks, input); });
}

Work GpuBackend::reduce_scatter(const Operation& operation, at::Tensor output, at::Tensor input,
                                Blocks blocks, bool even) {
  const int64_t mine = blocks.counts[rank_];
  if (narrow(input)) {
    const at::Tensor parts = at::empty({size_, mine}, input.options());
    return launch(operation, {output, input, parts}, [&] {
      exchange_all(parts, Blocks::even(size_, mine), input, blocks);
      runtime_.run_on(stream_, [=] { reduce_parts(output.view({-1}), parts, ReduceOp::sum); });
    });
  }
  return launch(operation, {output, input}, [&] {
    if (even) {
      runtime_.reduce_scatter(comm_, input.const_data_ptr(), output.data_ptr(), mine,
                              input.scalar_type(), stream_);
      return;
    }
    runtime_.group_start();
    for (int root = 0; root < size_; ++root)
      if (blocks.counts[root] > 0)
        runtime_.reduce(comm_, at_block(input, blocks, root),
                        root == rank_ ? output.data_ptr() : nullptr, blocks.counts[root],
                        input.scalar_type(), root, stream_);
    runtime_.group_end();
  });
}

Work GpuBackend::all_to_all(const Operation& operation, at::Tensor output, Blocks output_blocks,
                            at::Tensor input, Blocks input_blocks, bool /*even*/) {
  return launch(operation, {output, input},
                [&] { exchange_all(output, output_blocks, input, input_blocks); });
}

void GpuBackend::exchange_others(const Operation& operation, at::Tensor output, at::Tensor input) {
  const Blocks blocks = Blocks::even(size_, input.numel() / size_);
  launch(operation, {output, input}, [&] { exchange(output, blocks, input, blocks); }).wait();
}

Work GpuBackend::broadcast(const Operation& operation, at::Tensor tensor, int root) {
  return launch(operation, {tensor}, [&] {
    runtime_.broadcast(comm_, tensor.data_ptr(), static_cast<int64_t>(tensor.nbytes()), root,
                       stream_);
  });
}

// Collectives of one stream are done in the order they were put there.
void GpuBackend::forget_done() {
  bool any = false;
  while (!under_way_.empty() && runtime_.reached(under_way_.front().done)) {
    under_way_.pop_front();
    any = true;
  }
  if (any && !under_way_.empty()) under_way_.front().since = std::chrono::steady_clock::now();
}

std::string GpuBackend::fault(std::chrono::duration<double> timeout) {
  try {
    return find_fault(timeout);
  } catch (const std::exception& error) {  // the GPU itself failed, and says so to whoever asks next
    return fmt::format("{} (looking at collectives over {})", error.what(), axis_);
  }
}

std::string GpuBackend::find_fault(std::chrono::duration<double> timeout) {
  const std::lock_guard lock(mutex_);
  // Whoever is in a call looks at the state there.
  const std::unique_lock calls(calls_, std::try_to_lock);
  if (calls && runtime_.state(comm_) == GpuRuntime::CommState::failed) {
    const auto what = under_way_.empty() ? fmt::format("NCCL failed over {}", axis_)
                                         : fmt::format("NCCL failed in {} over {} (number {})",
                                                       under_way_.front().operation.name, axis_,
                                                       under_way_.front().operation.number);
    return fmt::format("{}: {}", what, runtime_.failure(comm_));
  }
  forget_done();
  if (under_way_.empty() || timeout.count() <= 0) return "";
  const UnderWay& oldest = under_way_.front();
  if (std::chrono::steady_clock::now() - oldest.since <= timeout) return "";
  return why_late(oldest, timeout);
}

std::string GpuBackend::why_late(const UnderWay& late, std::chrono::duration<double> timeout) {
  return fmt::format(
      "{} over {} (number {}) is not done on the GPU after --collective-timeout {} s: {}",
      late.operation.name, axis_, late.operation.number, timeout.count(),
      roll_call_.absent(late.operation.number, started_, kRollCallPatience));
}

void GpuBackend::attend() noexcept {
  try {
    roll_call_.answer(started_);
  } catch (const std::exception&) {
    // Who asked goes on without an answer, and says so.
  }
}

void GpuBackend::end() noexcept {
  ended_ = true;
  runtime_.abort(comm_);
}

}  // namespace archon
