#include "archon/engine/metrics.hpp"

#include <ATen/ops/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "archon/base/error.hpp"
#include "archon/io/json.hpp"

namespace archon {
namespace {

// Whole numbers: int64 in metrics.h5, no fraction in metrics.jsonl.
constexpr std::array kCounts = {"step", "tokens", "targets", "skipped"};

bool is_count(const std::string& name) {
  return name.ends_with("_bytes") || name.ends_with("_messages") ||
         std::find(kCounts.begin(), kCounts.end(), name) != kCounts.end();
}

Json to_json(const std::string& name, double value) {
  if (!std::isfinite(value)) return nullptr;
  if (is_count(name)) return static_cast<int64_t>(value);
  return value;
}

}  // namespace

MetricsWriter::MetricsWriter(const std::string& folder)
    : lines_(folder + "/metrics.jsonl", std::ios::trunc),
      file_(h5::File::create(folder + "/metrics.h5", "archon.metrics", 1)) {
  ARCHON_ENSURE(lines_.good(), "cannot write {}/metrics.jsonl; check the folder's permissions",
                folder);
}

void MetricsWriter::write(const MetricsRow& row) {
  Json line;
  for (const auto& [name, value] : row) {
    line[name] = to_json(name, value);
    const at::ScalarType type = is_count(name) ? at::kLong : at::kDouble;
    if (!file_.has("/" + name)) file_.create_rows("/" + name, {}, type);
    file_.append_rows("/" + name, at::tensor({value}, at::kDouble).to(type));
  }
  file_.flush();
  lines_ << line.dump() << std::endl;
  ARCHON_ENSURE(lines_.good(), "cannot write to metrics.jsonl; is the disk full?");
}

}  // namespace archon
