#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace archon {

struct CompareOptions {
  double rtol = 1e-5;
  double atol = 1e-8;
  std::vector<std::string> only;    ///< glob patterns of dataset paths; empty = all
  std::vector<std::string> ignore;  ///< glob patterns
};

/// How one dataset of A and B differ. An element fails when |a - b| > atol + rtol·max|A|... see
/// compare_files.
struct DatasetDifference {
  enum class Status { equal, within, differs, missing_in_a, missing_in_b, shape, type };
  std::string path;
  Status status = Status::equal;
  std::string detail;       ///< shapes or types, when those are what differs
  double max_abs = 0;       ///< largest |a - b|
  double max_rel = 0;       ///< largest |a - b| / largest magnitude of A
  std::vector<int64_t> where;  ///< index of the largest difference
  double cosine = 1;
  int64_t not_finite_a = 0, not_finite_b = 0;
};

struct Comparison {
  std::vector<DatasetDifference> datasets;
  bool passed = true;
};

/// Compares every dataset of two HDF5 files, in pieces. Elements differ when
/// |a - b| > atol + rtol·M, where M is the largest magnitude in A's dataset (the contract's
/// measure). NaN equals NaN at the same place only.
Comparison compare_files(const std::string& a, const std::string& b, const CompareOptions& options);

}  // namespace archon
