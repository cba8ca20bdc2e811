#include "mpi_backend.hpp"

#include <ATen/ops/empty.h>

#include <memory>

#include "archon/base/activity.hpp"
#include "archon/comm/watchdog.hpp"
#include "reduce.hpp"
#include "transfer.hpp"

namespace archon {
namespace {

// Blocking: start and finish under one watchdog scope. Asynchronous: start now, finish in wait.
template <class Start, class Finish>
Work launch(const Operation& operation, Transfer& transfer, Start start, Finish finish) {
  const TraceDetail detail = {.axis = operation.axis, .bytes = operation.bytes};
  if (!operation.async) {
    const ActivityScope activity(Activity::communication, operation.name, detail);
    const CollectiveScope scope(operation.name, operation.axis, operation.number);
    start();
    finish();
    return Work();
  }
  {
    const TraceOperation under_way(operation.name, detail);
    const ActivityScope activity(Activity::communication, "start", {.axis = operation.axis});
    start();
    transfer.started(under_way);
  }
  return Work([operation, finish = std::move(finish)] {
    const ActivityScope activity(Activity::communication, "wait", {.axis = operation.axis});
    const CollectiveScope scope(operation.name, operation.axis, operation.number);
    finish();
  });
}

/// Where the others' blocks of `count` elements arrive, with no place for the rank's own.
Blocks arrivals(int size, int rank, int64_t count) {
  std::vector<int64_t> counts(size, count);
  counts[rank] = 0;
  return Blocks(std::move(counts));
}

/// The blocks that are reduced, in the order of ranks; `others`: [ranks - 1, elements].
std::vector<at::Tensor> in_order(const at::Tensor& own, const at::Tensor& others, int rank) {
  std::vector<at::Tensor> blocks = others.unbind();
  blocks.insert(blocks.begin() + rank, own);
  return blocks;
}

}  // namespace

// Everyone gathers everything and reduces it.
Work MpiBackend::all_reduce_small(const Operation& operation, at::Tensor flat, ReduceOp op) {
  auto transfer = std::make_shared<Transfer>(comm_, operation.async, max_count_);
  const at::Tensor all = at::empty({size_, flat.numel()}, flat.options());
  return launch(
      operation, *transfer,
      [=, this] {
        transfer->all_gather(flat.const_data_ptr(), all.data_ptr(),
                             Blocks::even(size_, flat.numel()), flat.element_size());
      },
      [=] {
        transfer->wait();
        reduce_blocks(flat, all.unbind(), op);
      });
}

Work MpiBackend::all_reduce(const Operation& operation, at::Tensor flat, ReduceOp op) {
  if (static_cast<int64_t>(flat.nbytes()) <= Communicator::kSmallReduceBytes)
    return all_reduce_small(operation, std::move(flat), op);
  auto transfer = std::make_shared<Transfer>(comm_, operation.async, max_count_);
  const Blocks blocks = Blocks::balanced(size_, flat.numel());
  const int64_t mine = blocks.counts[rank_];
  const at::Tensor own = flat.narrow(0, blocks.offsets[rank_], mine);
  const at::Tensor others = at::empty({size_ - 1, mine}, flat.options());
  return launch(
      operation, *transfer,
      [=, this] {
        transfer->exchange_others(flat.const_data_ptr(), blocks, others.data_ptr(),
                                  arrivals(size_, rank_, mine), flat.element_size());
      },
      [=, comm = comm_, max_count = max_count_, rank = rank_] {
        transfer->wait();
        reduce_blocks(own, in_order(own, others, rank), op);
        Transfer(comm, /*async=*/false, max_count)
            .all_gather(own.const_data_ptr(), flat.data_ptr(), blocks, flat.element_size(),
                        /*in_place=*/true);
      });
}

Work MpiBackend::all_gather(const Operation& operation, at::Tensor output, at::Tensor input,
                            Blocks blocks) {
  auto transfer = std::make_shared<Transfer>(comm_, operation.async, max_count_);
  return launch(
      operation, *transfer,
      [=] {
        // Known by the memory: an empty block has no address.
        transfer->all_gather(input.const_data_ptr(), output.data_ptr(), blocks,
                             input.element_size(), /*in_place=*/input.is_alias_of(output));
      },
      // The capture keeps the tensors alive until the transfer is done.
      [transfer, output, input] { transfer->wait(); });
}

Work MpiBackend::reduce_scatter(const Operation& operation, at::Tensor output, at::Tensor input,
                                Blocks blocks, bool /*even*/) {
  auto transfer = std::make_shared<Transfer>(comm_, operation.async, max_count_);
  const int64_t mine = blocks.counts[rank_];
  const at::Tensor own = input.view({-1}).narrow(0, blocks.offsets[rank_], mine);
  const at::Tensor others = at::empty({size_ - 1, mine}, input.options());
  return launch(
      operation, *transfer,
      [=, this] {
        transfer->exchange_others(input.const_data_ptr(), blocks, others.data_ptr(),
                                  arrivals(size_, rank_, mine), input.element_size());
      },
      [transfer, input, output, own, others, rank = rank_] {
        transfer->wait();
        reduce_blocks(output.view({-1}), in_order(own, others, rank), ReduceOp::sum);
      });
}

Work MpiBackend::all_to_all(const Operation& operation, at::Tensor output, Blocks output_blocks,
                            at::Tensor input, Blocks input_blocks, bool even) {
  auto transfer = std::make_shared<Transfer>(comm_, operation.async, max_count_);
  return launch(
      operation, *transfer,
      [=] {
        if (even)
          transfer->all_to_all_even(input.const_data_ptr(), output.data_ptr(),
                                    input_blocks.counts.front(), input.element_size());
        else
          transfer->all_to_all_uneven(input.const_data_ptr(), input_blocks, output.data_ptr(),
                                      output_blocks, input.element_size());
      },
      [transfer, output, input] { transfer->wait(); });
}

void MpiBackend::exchange_others(const Operation& operation, at::Tensor output, at::Tensor input) {
  Transfer transfer(comm_, /*async=*/false, max_count_);
  launch(
      operation, transfer,
      [&] {
        const Blocks blocks = Blocks::even(size_, input.numel() / size_);
        transfer.exchange_others(input.const_data_ptr(), blocks, output.data_ptr(), blocks,
                                 input.element_size());
      },
      [] {});
}

Work MpiBackend::broadcast(const Operation& operation, at::Tensor tensor, int root) {
  auto transfer = std::make_shared<Transfer>(comm_, operation.async, max_count_);
  return launch(
      operation, *transfer,
      [=] { transfer->broadcast(tensor.data_ptr(), tensor.numel(), tensor.element_size(), root); },
      [transfer, tensor] { transfer->wait(); });
}

Work MpiBackend::barrier(const Operation& operation) {
  auto transfer = std::make_shared<Transfer>(comm_, operation.async, max_count_);
  return launch(
      operation, *transfer, [=] { transfer->barrier(); }, [transfer] { transfer->wait(); });
}

}  // namespace archon
