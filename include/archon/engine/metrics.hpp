#pragma once

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "archon/io/hdf5.hpp"

namespace archon {

/// One row of the metrics: names and values in the order in which they are printed.
using MetricsRow = std::vector<std::pair<std::string, double>>;

/// Writes one row per step to OUTPUT/metrics.jsonl (an object a line) and OUTPUT/metrics.h5 (a
/// dataset a column). All rows have the same columns. A value that is not finite becomes null in
/// the lines and NaN in the datasets.
class MetricsWriter {
 public:
  /// Replaces the files of an earlier run.
  explicit MetricsWriter(const std::string& folder);

  void write(const MetricsRow& row);

 private:
  std::ofstream lines_;
  h5::File file_;
};

}  // namespace archon
