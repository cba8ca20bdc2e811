#include "archon/comm/communicator.hpp"

#include <ATen/ops/empty.h>

#include "archon/base/activity.hpp"
#include "archon/base/error.hpp"
#include "archon/base/intern.hpp"
#include "archon/comm/watchdog.hpp"
#include "reduce.hpp"
#include "transfer.hpp"

namespace archon {
namespace {

void check_tensor(const at::Tensor& tensor, const char* operation) {
  ARCHON_ENSURE(tensor.defined() && tensor.device().is_cpu() && tensor.is_contiguous(),
                "{}: Communicator takes contiguous host tensors", operation);
}

int64_t row_elements(const at::Tensor& tensor) {
  int64_t product = 1;
  for (int64_t dim = 1; dim < tensor.dim(); ++dim) product *= tensor.size(dim);
  return product;
}

// Element counts of the blocks of `tensor` along dim 0; equal blocks where `rows` is empty.
Blocks blocks_of(const at::Tensor& tensor, std::vector<int64_t> rows, int size,
                 const char* operation) {
  ARCHON_ENSURE(tensor.dim() > 0, "{}: a scalar has no rows to split; reshape it to [1]",
                operation);
  if (rows.empty()) {
    ARCHON_ENSURE(tensor.size(0) % size == 0,
                  "{}: {} rows do not split into {} equal blocks; give the rows of each block",
                  operation, tensor.size(0), size);
    rows.assign(size, tensor.size(0) / size);
  }
  ARCHON_ENSURE(static_cast<int>(rows.size()) == size, "{}: {} block sizes for {} ranks", operation,
                rows.size(), size);
  const int64_t elements = row_elements(tensor);
  for (int64_t& count : rows) count *= elements;
  Blocks blocks(std::move(rows));
  ARCHON_ENSURE(blocks.total() == tensor.numel(), "{}: blocks hold {} elements, the tensor {}",
                operation, blocks.total(), tensor.numel());
  return blocks;
}

}  // namespace

Communicator::Communicator(MpiComm comm, std::string name)
    : comm_(std::move(comm)), name_(intern(name)) {
  if (comm_.get() == MPI_COMM_NULL) return;
  ARCHON_MPI(MPI_Comm_rank(comm_.get(), &rank_));
  ARCHON_MPI(MPI_Comm_size(comm_.get(), &size_));
}

Communicator Communicator::self() { return Communicator(MpiComm(), "self"); }

Communicator Communicator::shape_only(int rank, int size, std::string name) {
  Communicator group(MpiComm(), std::move(name));
  group.rank_ = rank;
  group.size_ = size;
  return group;
}

Traffic& Traffic::operator+=(const Traffic& other) {
  bytes += other.bytes;
  messages += other.messages;
  return *this;
}

// Blocking: start and finish under one watchdog scope. Asynchronous: start now, finish in wait.
template <class Start, class Finish>
Work Communicator::launch(const char* operation, const Traffic& sent, Transfer& transfer,
                          bool async, Start start, Finish finish) const {
  const int64_t number = ++started_;
  sent_ += sent;
  const char* const axis = name_;
  const TraceDetail detail = {.axis = axis, .bytes = sent.bytes};
  if (!async) {
    const ActivityScope activity(Activity::communication, operation, detail);
    const CollectiveScope scope(operation, axis, number);
    start();
    finish();
    return Work();
  }
  {
    const TraceOperation under_way(operation, detail);
    const ActivityScope activity(Activity::communication, "start", {.axis = axis});
    start();
    transfer.started(under_way);
  }
  return Work([operation, axis, number, finish = std::move(finish)] {
    const ActivityScope activity(Activity::communication, "wait", {.axis = axis});
    const CollectiveScope scope(operation, axis, number);
    finish();
  });
}

Work Communicator::all_reduce_impl(at::Tensor tensor, ReduceOp op, bool async) const {
  check_tensor(tensor, "all_reduce");
  if (size_ == 1 || tensor.numel() == 0) return Work();
  // Small: everyone gathers everything and reduces it. Large: reduce_scatter (an all-to-all and
  // a local sum, which beats MPI's own by far and rounds once), then all_gather.
  const at::Tensor flat = tensor.view({-1});
  const std::size_t element_size = tensor.element_size();
  auto transfer = std::make_shared<Transfer>(comm_.get(), async, max_count_);
  if (static_cast<int64_t>(tensor.nbytes()) <= kSmallReduceBytes) {
    const at::Tensor all = at::empty({size_, flat.numel()}, flat.options());
    const Blocks blocks(std::vector<int64_t>(size_, flat.numel()));
    return launch(
        "all_reduce", to_others(flat.nbytes() * (size_ - 1)), *transfer, async,
        [=] { transfer->all_gather(flat.const_data_ptr(), all.data_ptr(), blocks, element_size); },
        [=] {
          transfer->wait();
          reduce_blocks(flat, all, op);
        });
  }
  const int64_t base = flat.numel() / size_;
  const int64_t larger = flat.numel() % size_;
  std::vector<int64_t> counts(size_, base);
  for (int64_t i = 0; i < larger; ++i) ++counts[i];
  const Blocks blocks(counts);
  const int64_t mine = blocks.counts[rank_];
  const at::Tensor parts = at::empty({size_, mine}, flat.options());
  const auto own_bytes = static_cast<int64_t>(mine * element_size);
  Traffic sent = to_others(static_cast<int64_t>(flat.nbytes()) - own_bytes);
  sent += to_others(own_bytes * (size_ - 1));
  return launch(
      "all_reduce", sent, *transfer, async,
      [=, this] {
        if (larger == 0)
          transfer->all_to_all_even(flat.const_data_ptr(), parts.data_ptr(), base, element_size);
        else
          transfer->all_to_all_uneven(flat.const_data_ptr(), blocks, parts.data_ptr(),
                                      Blocks(std::vector<int64_t>(size_, mine)), element_size);
      },
      [=, comm = comm_.get(), max_count = max_count_, offset = blocks.offsets[rank_]] {
        transfer->wait();
        at::Tensor sum = at::empty({mine}, flat.options());
        reduce_blocks(sum, parts, op);
        Transfer(comm, /*async=*/false, max_count)
            .all_gather(sum.const_data_ptr(), flat.data_ptr(), blocks, element_size);
      });
}

Work Communicator::all_gather_impl(at::Tensor output, const at::Tensor& input,
                                   std::vector<int64_t> rows, bool async) const {
  check_tensor(output, "all_gather");
  check_tensor(input, "all_gather");
  const Blocks blocks = blocks_of(output, std::move(rows), size_, "all_gather");
  ARCHON_ENSURE(
      blocks.counts[rank_] == input.numel() && output.scalar_type() == input.scalar_type(),
      "all_gather: the input ({} elements) is not this rank's block of the output ({})",
      input.numel(), blocks.counts[rank_]);
  if (size_ == 1) {
    if (output.const_data_ptr() != input.const_data_ptr()) output.view_as(input).copy_(input);
    return Work();
  }
  auto transfer = std::make_shared<Transfer>(comm_.get(), async, max_count_);
  return launch(
      "all_gather", to_others(input.nbytes() * (size_ - 1)), *transfer, async,
      [=] {
        transfer->all_gather(input.const_data_ptr(), output.data_ptr(), blocks,
                             input.element_size());
      },
      // The capture keeps the tensors alive until the transfer is done.
      [transfer, output, input] { transfer->wait(); });
}

Work Communicator::reduce_scatter_impl(at::Tensor output, const at::Tensor& input,
                                       std::vector<int64_t> rows, bool async) const {
  check_tensor(output, "reduce_scatter");
  check_tensor(input, "reduce_scatter");
  const bool even = rows.empty();
  const Blocks blocks = blocks_of(input, std::move(rows), size_, "reduce_scatter");
  const int64_t mine = blocks.counts[rank_];
  const bool widens =
      output.scalar_type() == at::kFloat && c10::isReducedFloatingType(input.scalar_type());
  ARCHON_ENSURE(mine == output.numel() && (widens || output.scalar_type() == input.scalar_type()),
                "reduce_scatter: the output ({} elements) is not this rank's block of the input "
                "({})",
                output.numel(), mine);
  if (size_ == 1) {
    output.view_as(input).copy_(input);
    return Work();
  }
  auto transfer = std::make_shared<Transfer>(comm_.get(), async, max_count_);
  const at::Tensor parts = at::empty({size_, mine}, input.options());
  return launch(
      "reduce_scatter", to_others((input.numel() - mine) * input.element_size()), *transfer, async,
      [=, this] {
        if (even)
          transfer->all_to_all_even(input.const_data_ptr(), parts.data_ptr(), mine,
                                    input.element_size());
        else
          transfer->all_to_all_uneven(input.const_data_ptr(), blocks, parts.data_ptr(),
                                      Blocks(std::vector<int64_t>(size_, mine)),
                                      input.element_size());
      },
      [transfer, input, output, parts] {
        transfer->wait();
        reduce_blocks(output.view({-1}), parts, ReduceOp::sum);
      });
}

Work Communicator::all_to_all_impl(at::Tensor output, const at::Tensor& input,
                                   std::vector<int64_t> output_rows,
                                   std::vector<int64_t> input_rows, bool async) const {
  check_tensor(output, "all_to_all");
  check_tensor(input, "all_to_all");
  ARCHON_ENSURE(output_rows.empty() == input_rows.empty(),
                "all_to_all: give the rows of both the output's and the input's blocks, or none");
  const bool even = input_rows.empty();
  const Blocks in = blocks_of(input, std::move(input_rows), size_, "all_to_all");
  const Blocks out = blocks_of(output, std::move(output_rows), size_, "all_to_all");
  ARCHON_ENSURE(
      output.scalar_type() == input.scalar_type() && in.counts[rank_] == out.counts[rank_],
      "all_to_all: input and output do not match");
  if (size_ == 1) {
    output.view({-1}).copy_(input.view({-1}));
    return Work();
  }
  auto transfer = std::make_shared<Transfer>(comm_.get(), async, max_count_);
  return launch(
      "all_to_all", to_others((in.total() - in.counts[rank_]) * input.element_size()), *transfer,
      async,
      [=] {
        if (even)
          transfer->all_to_all_even(input.const_data_ptr(), output.data_ptr(), in.counts.front(),
                                    input.element_size());
        else
          transfer->all_to_all_uneven(input.const_data_ptr(), in, output.data_ptr(), out,
                                      input.element_size());
      },
      [transfer, output, input] { transfer->wait(); });
}

void Communicator::exchange_others(at::Tensor output, const at::Tensor& input) const {
  check_tensor(output, "exchange_others");
  check_tensor(input, "exchange_others");
  ARCHON_ENSURE(output.scalar_type() == input.scalar_type() && output.numel() == input.numel(),
                "exchange_others: input and output do not match");
  if (size_ == 1) return;
  const int64_t block = blocks_of(input, {}, size_, "exchange_others").counts.front();
  Transfer transfer(comm_.get(), /*async=*/false, max_count_);
  launch(
      "exchange_others", to_others((input.numel() - block) * input.element_size()), transfer,
      /*async=*/false,
      [&] {
        transfer.exchange_others(input.const_data_ptr(), output.data_ptr(), block,
                                 input.element_size());
      },
      [] {});
}

Work Communicator::broadcast_impl(at::Tensor tensor, int root, bool async) const {
  check_tensor(tensor, "broadcast");
  if (size_ == 1) return Work();
  auto transfer = std::make_shared<Transfer>(comm_.get(), async, max_count_);
  const Traffic sent = rank_ == root ? to_others(tensor.nbytes() * (size_ - 1)) : Traffic();
  return launch(
      "broadcast", sent, *transfer, async,
      [=] { transfer->broadcast(tensor.data_ptr(), tensor.numel(), tensor.element_size(), root); },
      [transfer, tensor] { transfer->wait(); });
}

Work Communicator::barrier_impl(bool async) const {
  if (size_ == 1) return Work();
  auto transfer = std::make_shared<Transfer>(comm_.get(), async, max_count_);
  return launch(
      "barrier", Traffic(), *transfer, async, [=] { transfer->barrier(); },
      [transfer] { transfer->wait(); });
}

void Communicator::all_reduce(at::Tensor tensor, ReduceOp op) const {
  all_reduce_impl(std::move(tensor), op, false).wait();
}
Work Communicator::all_reduce_async(at::Tensor tensor, ReduceOp op) const {
  return all_reduce_impl(std::move(tensor), op, true);
}
void Communicator::all_gather(at::Tensor output, const at::Tensor& input,
                              const std::vector<int64_t>& rows) const {
  all_gather_impl(std::move(output), input, rows, false).wait();
}
Work Communicator::all_gather_async(at::Tensor output, const at::Tensor& input,
                                    const std::vector<int64_t>& rows) const {
  return all_gather_impl(std::move(output), input, rows, true);
}
void Communicator::reduce_scatter(at::Tensor output, const at::Tensor& input,
                                  const std::vector<int64_t>& rows) const {
  reduce_scatter_impl(std::move(output), input, rows, false).wait();
}
Work Communicator::reduce_scatter_async(at::Tensor output, const at::Tensor& input,
                                        const std::vector<int64_t>& rows) const {
  return reduce_scatter_impl(std::move(output), input, rows, true);
}
void Communicator::all_to_all(at::Tensor output, const at::Tensor& input,
                              const std::vector<int64_t>& output_rows,
                              const std::vector<int64_t>& input_rows) const {
  all_to_all_impl(std::move(output), input, output_rows, input_rows, false).wait();
}
Work Communicator::all_to_all_async(at::Tensor output, const at::Tensor& input,
                                    const std::vector<int64_t>& output_rows,
                                    const std::vector<int64_t>& input_rows) const {
  return all_to_all_impl(std::move(output), input, output_rows, input_rows, true);
}
void Communicator::broadcast(at::Tensor tensor, int root) const {
  broadcast_impl(std::move(tensor), root, false).wait();
}
Work Communicator::broadcast_async(at::Tensor tensor, int root) const {
  return broadcast_impl(std::move(tensor), root, true);
}
void Communicator::barrier() const { barrier_impl(false).wait(); }
Work Communicator::barrier_async() const { return barrier_impl(true); }

double Communicator::all_reduce(double value, ReduceOp op) const {
  if (size_ == 1) return value;
  at::Tensor cell = at::empty({1}, at::kDouble);
  *cell.data_ptr<double>() = value;
  all_reduce(cell, op);
  return *cell.data_ptr<double>();
}

int64_t Communicator::all_reduce(int64_t value, ReduceOp op) const {
  if (size_ == 1) return value;
  at::Tensor cell = at::empty({1}, at::kLong);
  *cell.data_ptr<int64_t>() = value;
  all_reduce(cell, op);
  return *cell.data_ptr<int64_t>();
}

std::string Communicator::broadcast(const std::string& text, int root) const {
  if (size_ == 1) return text;
  at::Tensor length = at::empty({1}, at::kLong);
  *length.data_ptr<int64_t>() = static_cast<int64_t>(text.size());
  broadcast(length, root);
  at::Tensor bytes = at::empty({*length.data_ptr<int64_t>()}, at::kByte);
  if (rank_ == root) std::copy(text.begin(), text.end(), bytes.data_ptr<uint8_t>());
  broadcast(bytes, root);
  return std::string(reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>()), bytes.numel());
}

}  // namespace archon
