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

/// Where a parameter lies in the flat buffer of its unit, and which of that buffer's blocks this
/// rank owns: rank r of `size` owns elements [r·block, (r+1)·block).
struct ShardPlace {
  int64_t offset = 0;
  int64_t block = 0;
  int rank = 0;
  int size = 1;
};

/// One leaf of the model: this rank's tp share of its parts.
///
/// `value` is what the model computes with; `master` is the float32 truth that the optimizer
/// steps and `grad` its float32 gradient, summed over micro-batches. Of these two a rank holds the
/// elements it owns, as flat tensors; all of them unless the parameter is sharded. Storage belongs
/// to the ParameterUnit.
class Parameter {
 public:
  explicit Parameter(ParameterSpec spec);

  const std::vector<ParameterPart>& parts() const { return spec_.parts; }
  TpPlacement placement() const { return spec_.placement; }

  /// This rank's share of part `i` within the whole part: rows or columns [begin, end) along
  /// `tp_dim()`; everything when replicated.
  Range tp_range(std::size_t part) const;
  int64_t tp_dim() const { return placement() == TpPlacement::columns ? 1 : 0; }
  void set_tp(int tp_rank, int tp_size);

  /// Of `value`: [rows of all parts, ...].
  std::vector<int64_t> local_shape() const;
  int64_t local_numel() const;
  /// Rows of `value` that belong to part `i`, and the elements of these when it is flattened.
  Range local_rows(std::size_t part) const;
  Range part_elements(std::size_t part) const;
  /// The part's share within a tensor of local_shape(): a view.
  at::Tensor local_part(const at::Tensor& tensor, std::size_t part) const;

  /// Elements of the flattened local tensor that a rank of the shard group owns.
  Range owned_by(int rank) const;
  Range owned() const { return owned_by(place_.rank); }
  /// Those of part `i` within `tensor`, one of master and grad: a view, possibly empty.
  at::Tensor owned_part(const at::Tensor& tensor, std::size_t part) const;
  const ShardPlace& place() const { return place_; }

  bool allocated() const { return master_.defined(); }
  /// [local_shape()] in the compute type, requires grad; readable while its unit is gathered.
  const at::Tensor& value() const { return value_; }
  /// float32 [owned().size()].
  const at::Tensor& master() const { return master_; }
  /// [owned().size()], float32, or bfloat16 where it is the sum of no more than one backward's and
  /// one rank's; zeros when none arrived.
  at::Tensor grad() const;
  /// The same of [local_shape()], where this rank has all of it: not exchanged, or replicated over
  /// tp. Zeros are made when none arrived.
  at::Tensor whole_grad();

 private:
  friend class ParameterUnit;
  ParameterSpec spec_;
  int tp_rank_ = 0;
  int tp_size_ = 1;
  ShardPlace place_;
  at::Tensor master_, value_, grad_;
};

}  // namespace archon
