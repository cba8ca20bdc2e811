#pragma once

#include <cstdint>

#include "tensor_source.hpp"

namespace archon {

/// What is known of a pair of datasets after some of their elements.
struct Measure {
  double largest = 0;               ///< finite magnitude in A
  double max_abs = 0;               ///< infinite where only one of the two is finite
  int64_t where = -1;               ///< flat index of max_abs; -1: no element differs
  double value_a = 0, value_b = 0;  ///< at `where`
  double dot = 0, square_a = 0, square_b = 0;
  int64_t not_finite_a = 0, not_finite_b = 0;

  void add(int64_t index, double a, double b, bool same);
  double cosine() const;
};

/// Compares the first `rows` rows of two datasets that have the same shape behind them.
Measure measure_datasets(const TensorSource& a, const TensorSource& b, const h5::DatasetInfo& in_a,
                         const h5::DatasetInfo& in_b, int64_t rows);

}  // namespace archon
