#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "archon/parallel/partition.hpp"

namespace archon {

/// How a parameter lies across the tensor-parallel group.
///
/// `rows` and `columns` are even_range blocks of dim 0 and dim 1. The gradient of a `replicated`
/// parameter is, on each tp rank, one part of a sum over tp: under sequence parallelism every
/// rank has seen its own tokens (or its own heads) only.
enum class TpPlacement { replicated, rows, columns };

/// A named tensor of the model; several may lie one below the other in one Parameter, so that
/// one matrix product serves them all (query, key, value; gate, up).
struct ParameterPart {
  std::string name;            ///< internal name, "layers.0.attention.query.weight"
  std::vector<int64_t> shape;  ///< whole, over all ranks
};

/// What a parameter is before it has storage.
struct ParameterSpec {
  std::vector<ParameterPart> parts;  ///< stacked along dim 0; equal trailing dims
  TpPlacement placement = TpPlacement::replicated;
};

/// One leaf of the model: this rank's tp share of its parts.
///
/// `value` is what the model computes with (compute dtype, requires grad); `master` is the
/// float32 truth that the optimizer steps (the same storage when the compute dtype is float32);
/// `grad` is the float32 gradient, summed over micro-batches.
class Parameter {
 public:
  explicit Parameter(ParameterSpec spec);

  const std::vector<ParameterPart>& parts() const { return spec_.parts; }
  TpPlacement placement() const { return spec_.placement; }

  /// This rank's share of part `i` within the whole part: rows or columns [begin, end) along
  /// `tp_dim()`; everything when replicated.
  Range tp_range(std::size_t part) const;
  int64_t tp_dim() const { return placement() == TpPlacement::columns ? 1 : 0; }
  /// Rows of `value` (dim 0) that belong to part `i`.
  Range local_rows(std::size_t part) const;
  /// The part's share within `tensor`, one of value, master, grad: a view.
  at::Tensor local_part(const at::Tensor& tensor, std::size_t part) const;

  void set_tp(int tp_rank, int tp_size);
  /// Allocates master (uninitialised) at this rank's size, and value if dtype is not float32.
  void allocate(at::ScalarType compute_dtype);
  bool allocated() const { return master_.defined(); }

  const at::Tensor& value() const { return value_; }
  const at::Tensor& master() const { return master_; }
  const at::Tensor& grad() const { return grad_; }
  /// Rounds master into value; nothing to do when both are the same storage.
  void refresh_value();
  /// Zeroes grad (allocating it at first use).
  void zero_grad();
  /// Adds the gradient that the last backward left on value into grad.
  void collect_grad();

 private:
  std::vector<int64_t> local_shape() const;
  ParameterSpec spec_;
  int tp_rank_ = 0;
  int tp_size_ = 1;
  at::Tensor master_, value_, grad_;
};

}  // namespace archon
