#include "archon/engine/metrics.hpp"

#include <ATen/ops/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <utility>

#include "archon/base/error.hpp"
#include "archon/io/files.hpp"
#include "archon/io/json.hpp"

namespace archon {
namespace {

// Whole numbers: int64 in metrics.h5, no fraction in metrics.jsonl.
constexpr std::array kCounts = {"step", "tokens", "targets", "skipped"};

// Of the lines, when the datasets are written anew.
constexpr std::size_t kRowsAtATime = 4096;

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

bool is_count(const std::string& name) {
  return name.ends_with("_bytes") || name.ends_with("_messages") ||
         std::find(kCounts.begin(), kCounts.end(), name) != kCounts.end();
}

Json to_json(const std::string& name, double value) {
  if (!std::isfinite(value)) return nullptr;
  if (is_count(name)) return static_cast<int64_t>(value);
  return value;
}

double to_value(const Json& json) { return json.is_number() ? json.get<double>() : kMissing; }

at::Tensor to_column(const std::string& name, std::vector<double> values) {
  if (!is_count(name)) return at::tensor(values, at::kDouble);
  std::replace_if(values.begin(), values.end(), [](double x) { return !std::isfinite(x); }, -1.0);
  return at::tensor(values, at::kDouble).to(at::kLong);
}

/// 0 where the line is none of ours, or not whole.
int64_t step_of(const std::string& line) {
  const Json row = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!row.is_object() || !row.contains("step") || !row["step"].is_number_integer()) return 0;
  return row["step"].get<int64_t>();
}

/// How many bytes of the lines stay: whole lines of steps up to `after_step`, in rising order.
/// `last_step` receives that of the last one.
int64_t bytes_to_keep(const std::string& path, int64_t after_step, int64_t& last_step) {
  std::ifstream lines(path);
  int64_t bytes = 0;
  for (std::string line; std::getline(lines, line) && !lines.eof();) {
    const int64_t step = step_of(line);
    if (step <= last_step || step > after_step) break;
    last_step = step;
    bytes += static_cast<int64_t>(line.size()) + 1;
  }
  return bytes;
}

/// The lines of earlier steps, ready to be appended to.
std::ofstream open_lines(const std::string& path, int64_t after_step, int64_t& last_step) {
  std::ofstream lines(path, std::ios::app);
  ARCHON_ENSURE(lines.good(), "cannot write {}; check the folder's permissions", path);
  std::error_code error;
  std::filesystem::resize_file(path, bytes_to_keep(path, after_step, last_step), error);
  ARCHON_ENSURE(!error, "cannot cut {}: {}", path, error.message());
  return lines;
}

}  // namespace

MetricsWriter::MetricsWriter(const std::string& folder, int64_t after_step)
    : path_(folder + "/metrics.jsonl"),
      lines_(open_lines(path_, after_step, last_step_)),
      file_(h5::File::create(folder + "/metrics.h5", "archon.metrics", 1)) {
  rebuild();
}

void MetricsWriter::rebuild() {
  std::ifstream lines(path_);
  std::vector<MetricsRow> rows;
  for (std::string line; std::getline(lines, line);) {
    const Json object = parse_json(line, path_);
    rows.emplace_back();
    for (const auto& [name, value] : object.items())
      rows.back().emplace_back(name, to_value(value));
    if (rows.size() == kRowsAtATime) append(std::exchange(rows, {}));
  }
  if (!rows.empty()) append(rows);
  file_.flush();
}

void MetricsWriter::append(const std::vector<MetricsRow>& rows) {
  std::map<std::string, std::vector<double>> values;
  for (std::size_t row = 0; row < rows.size(); ++row)
    for (const auto& [name, value] : rows[row]) {
      values[name].resize(rows.size(), kMissing);
      values[name][row] = value;
    }
  for (const std::string& name : columns_) values[name].resize(rows.size(), kMissing);
  for (const auto& [name, column] : values) {
    if (columns_.insert(name).second) {
      file_.create_rows("/" + name, {}, is_count(name) ? at::kLong : at::kDouble);
      file_.append_rows("/" + name, to_column(name, std::vector<double>(rows_, kMissing)));
    }
    file_.append_rows("/" + name, to_column(name, column));
  }
  rows_ += rows.size();
}

void MetricsWriter::write(const MetricsRow& row) {
  Json line;
  for (const auto& [name, value] : row) line[name] = to_json(name, value);
  append({row});
  file_.flush();
  lines_ << line.dump() << std::endl;
  ARCHON_ENSURE(lines_.good(), "cannot write to metrics.jsonl; is the disk full?");
}

void MetricsWriter::sync() const { sync_path(path_); }

}  // namespace archon
