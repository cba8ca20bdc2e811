#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace archon {

/// Bounds for the datasets whose paths match a glob pattern.
struct Tolerance {
  std::string pattern;
  double rtol = 0;
  std::optional<double> atol = {};  ///< nothing: that of CompareOptions
};

/// Reads lines "PATTERN rtol [atol]"; # begins a comment at the start of a line or after a blank.
/// InputError with file, line and reason when a line is anything else.
std::vector<Tolerance> read_tolerances(const std::string& path);

struct CompareOptions {
  double rtol = 1e-5;
  double atol = 1e-8;
  std::vector<std::string> only = {};      ///< glob patterns of dataset paths; empty = all
  std::vector<std::string> ignore = {};    ///< glob patterns; goes before `only`
  std::vector<Tolerance> tolerances = {};  ///< in place of rtol and atol; the first match counts
};

/// How one dataset of A and B differ.
struct DatasetDifference {
  /// equal: every element is; within: all differences are tolerated; type: numbers in one, strings
  /// or the like in the other. All but the first two fail the comparison.
  enum class Status { equal, within, differs, missing_in_a, missing_in_b, shape, type };
  std::string path;
  Status status = Status::equal;
  std::string detail;          ///< shapes or types, when those are what differs; padding left out
  double rtol = 0, atol = 0;   ///< the bounds that applied
  double max_abs = 0;          ///< largest |a - b|; infinite where only one of the two is finite
  double max_rel = 0;          ///< max_abs / largest finite magnitude of A
  std::vector<int64_t> where;  ///< index of the largest difference, if there is any
  double value_a = 0, value_b = 0;  ///< the numbers there
  double cosine = 1;  ///< of the elements that are finite in both; 1 if all of those are 0
  int64_t not_finite_a = 0, not_finite_b = 0;

  bool passed() const { return status == Status::equal || status == Status::within; }
};

struct Comparison {
  std::vector<DatasetDifference> datasets;  ///< sorted by path
  bool passed = true;
  std::vector<std::string> notes;            ///< what was left out that the reader might expect
  std::vector<std::string> unused_patterns;  ///< of CompareOptions::tolerances
};

/// Compares every dataset of numbers of A and B, block by block in double precision; floats and
/// integers may be compared with each other. Each of A and B is an HDF5 file, a checkpoint (as
/// find_checkpoint takes them, or its index.h5: parameters and optimizer state, whole whatever the
/// layout), or a HuggingFace folder. Of a checkpoint that is compared with a HuggingFace folder,
/// the parameters are compared, under their names there.
///
/// A dataset differs when any |a - b| > atol + rtol * M, where M is the largest finite magnitude in
/// A's dataset. An infinity or NaN equals only its like at the same place. Datasets of strings and
/// other non-numbers are left out. Patterns are matched against whole paths ("*" matches "/" too),
/// whose leading "/" they may leave out.
///
/// Padding: where the last offset of a file's /cu_seqlens is below the number of rows of its token
/// datasets (see docs/file-formats.md), the rows from there on are left out; of the other file too,
/// unless it has offsets of its own.
///
/// InputError when a file cannot be read, when a checkpoint lacks a part (HDF5 would read NaN in
/// its place), when tolerances are negative, and when nothing is left to compare (so that a
/// mistyped pattern does not pass).
Comparison compare_files(const std::string& a, const std::string& b, const CompareOptions& options);

}  // namespace archon
