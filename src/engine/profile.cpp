#include "archon/engine/profile.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <string>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/base/trace.hpp"
#include "archon/comm/agreement.hpp"
#include "archon/io/files.hpp"
#include "archon/io/json.hpp"

namespace archon {
namespace {

std::string label(const TraceEvent& event) {
  const TraceDetail& detail = event.detail;
  if (detail.axis != nullptr) return fmt::format("{} {}", event.name, detail.axis);
  if (detail.number >= 0) return fmt::format("{} {}", event.name, detail.number);
  return event.name;
}

/// This rank's events, as elements of a JSON array.
class RankTrace {
 public:
  RankTrace(const Mesh& mesh, int64_t origin) : rank_(mesh.world().rank()), origin_(origin) {
    const std::string name = fmt::format("rank {} (dp {}, cp {}, tp {})", rank_, mesh.dp_rank(),
                                         mesh.cp_rank(), mesh.tp_rank());
    append({{"ph", "M"}, {"name", "process_name"}, {"pid", rank_}, {"args", {{"name", name}}}});
    append({{"ph", "M"},
            {"name", "process_sort_index"},
            {"pid", rank_},
            {"args", {{"sort_index", rank_}}}});
  }

  void add(const TraceEvent& event) {
    Json json = {
        {"name", label(event)}, {"cat", event.name}, {"pid", rank_}, {"tid", event.thread}};
    const TraceDetail& detail = event.detail;
    json["args"] = Json::object();
    if (detail.axis != nullptr) json["args"]["axis"] = detail.axis;
    if (detail.bytes >= 0) json["args"]["bytes"] = detail.bytes;
    if (detail.number >= 0) json["args"]["number"] = detail.number;
    json["ts"] = microseconds(event.begin);
    if (!event.async) {
      json["ph"] = "X";
      json["dur"] = static_cast<double>(event.end - event.begin) / 1000;
      append(json);
      return;
    }
    json["id"] = fmt::format("{}.{}", rank_, operations_++);
    json["ph"] = "b";
    append(json);
    json["ph"] = "e";
    json["ts"] = microseconds(event.end);
    append(json);
  }

  const std::string& text() const { return text_; }

 private:
  double microseconds(int64_t time) const { return static_cast<double>(time - origin_) / 1000; }
  void append(const Json& json) {
    if (!text_.empty()) text_ += ",\n";
    text_ += json.dump();
  }

  int rank_;
  int64_t origin_;
  int64_t operations_ = 0;
  std::string text_;
};

}  // namespace

Profile::Profile(const ProfileOptions& options, int64_t last_step, const Mesh& mesh)
    : options_(options), last_step_(std::min(options.last_step, last_step)), mesh_(mesh) {
  if (options_.file.empty()) return;
  ARCHON_VALIDATE(
      options_.first_step <= last_step,
      "--profile-steps {}-{} begin after the last step, {}; name steps that are run, or "
      "leave --profile out",
      options_.first_step, options_.last_step, last_step);
  check_on_rank_zero(mesh.world(), [&] { validate_new_file(options_.file); });
}

void Profile::before(int64_t step) {
  if (options_.file.empty() || step != options_.first_step) return;
  mesh_.world().barrier();
  origin_ = trace::now();
  trace::start();
}

void Profile::after(int64_t step) {
  if (options_.file.empty() || step < options_.first_step || step > last_step_) return;
  traced_ = step;
  if (step == last_step_) write();
}

void Profile::finish() {
  if (options_.file.empty() || traced_ == last_step_) return;
  if (traced_ > 0)
    write();
  else
    log::warning("--profile-steps {}-{}: the run ended before, so {} is not written",
                 options_.first_step, options_.last_step, options_.file);
}

void Profile::write() const {
  trace::stop();
  RankTrace mine(mesh_, origin_);
  for (const TraceEvent& event : trace::take()) mine.add(event);
  const auto texts = gather_bytes(mesh_.world(), mine.text());
  if (mesh_.world().rank() != 0) return;
  try {
    write_text_file(options_.file,
                    fmt::format("{{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n{}\n]}}\n",
                                fmt::join(texts, ",\n")));
    log::info("wrote {}: steps {} to {}", options_.file, options_.first_step, traced_);
  } catch (const RuntimeFailure& failure) {  // of more worth than a trace are the steps to come
    log::warning("no trace of steps {} to {}: {}", options_.first_step, traced_, failure.what());
  }
}

}  // namespace archon
