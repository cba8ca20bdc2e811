#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace archon {

struct CompareOptions {
  double rtol = 1e-5;
  double atol = 1e-8;
  std::vector<std::string> only = {};    ///< glob patterns of dataset paths; empty = all
  std::vector<std::string> ignore = {};  ///< glob patterns; goes before `only`
};

/// How one dataset of A and B differ.
struct DatasetDifference {
  /// equal: every element is; within: all differences are tolerated; type: numbers in one, strings
  /// or the like in the other. All but the first two fail the comparison.
  enum class Status { equal, within, differs, missing_in_a, missing_in_b, shape, type };
  std::string path;
  Status status = Status::equal;
  std::string detail;          ///< shapes or types, when those are what differs
  double max_abs = 0;          ///< largest |a - b|; infinite where only one of the two is finite
  double max_rel = 0;          ///< max_abs / largest finite magnitude of A
  std::vector<int64_t> where;  ///< index of the largest difference, if there is any
  double cosine = 1;           ///< of the elements that are finite in both; 1 if all of those are 0
  int64_t not_finite_a = 0, not_finite_b = 0;
};

struct Comparison {
  std::vector<DatasetDifference> datasets;  ///< sorted by path
  bool passed = true;
};

/// Compares every dataset of numbers in two HDF5 files, or every tensor in two HuggingFace folders,
/// block by block in double precision; floats and integers may be compared with each other.
///
/// A dataset differs when any |a - b| > atol + rtol * M, where M is the largest finite magnitude in
/// A's dataset. An infinity or NaN equals only its like at the same place. Datasets of strings and
/// other non-numbers are left out. Patterns are matched against whole paths ("*" matches "/" too),
/// whose leading "/" they may leave out.
///
/// InputError when a file cannot be read, when tolerances are negative, and when nothing is left to
/// compare (so that a mistyped pattern does not pass).
Comparison compare_files(const std::string& a, const std::string& b, const CompareOptions& options);

}  // namespace archon
