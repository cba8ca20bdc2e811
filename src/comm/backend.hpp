#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "archon/comm/communicator.hpp"
#include "archon/comm/work.hpp"
#include "blocks.hpp"

namespace archon {

/// One collective, as messages and traces call it. Texts live as long as the process.
struct Operation {
  const char* name;
  const char* axis;
  int64_t number;  ///< running, on this axis
  int64_t bytes;   ///< sent by this rank
  bool async;
};

/// What moves a Communicator's tensors. The Communicator has checked the arguments: tensors are
/// contiguous, types and blocks match, the group has two ranks or more.
///
/// A call returns an empty Work when the operation was blocking, and one that finishes it when it
/// was not. Tensors are taken by value: they stay alive until the operation is done.
class Backend {
 public:
  Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend() = default;

  /// In place; `flat` is [elements].
  virtual Work all_reduce(const Operation& operation, at::Tensor flat, ReduceOp op) = 0;
  virtual Work all_gather(const Operation& operation, at::Tensor output, at::Tensor input,
                          Blocks blocks) = 0;
  /// Sums; `blocks` are the input's. `even`: the caller named no rows, so every rank knows that the
  /// blocks are equal.
  virtual Work reduce_scatter(const Operation& operation, at::Tensor output, at::Tensor input,
                              Blocks blocks, bool even) = 0;
  virtual Work all_to_all(const Operation& operation, at::Tensor output, Blocks output_blocks,
                          at::Tensor input, Blocks input_blocks, bool even) = 0;
  /// Blocks of equal size; this rank's own block of the output is not written. Blocking.
  virtual void exchange_others(const Operation& operation, at::Tensor output, at::Tensor input) = 0;
  virtual Work broadcast(const Operation& operation, at::Tensor tensor, int root) = 0;
};

}  // namespace archon
