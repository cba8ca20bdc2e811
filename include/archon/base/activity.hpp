#pragma once

#include <array>

#include "archon/base/trace.hpp"

namespace archon {

/// What a thread spends its time on.
enum class Activity {
  compute,        ///< everything that is not said to be one of the others
  communication,  ///< inside collectives: starting, waiting, adding up
  data,           ///< reading and packing batches
  io,             ///< writing metrics, records, models
};
inline constexpr std::array kActivityNames = {"compute", "communication", "data", "io"};

/// Seconds by Activity.
using ActivitySeconds = std::array<double, kActivityNames.size()>;

/// What the calling thread spent on each so far. Every moment since its first call into this file
/// counts once, so differences add up to the time between.
ActivitySeconds activity_seconds();

/// Counts its lifetime for `activity`, and shows it in the trace. Inside another scope time counts
/// for the inner one alone.
class ActivityScope {
 public:
  ActivityScope(Activity activity, const char* name, const TraceDetail& detail = {});
  ~ActivityScope();
  ActivityScope(const ActivityScope&) = delete;
  ActivityScope& operator=(const ActivityScope&) = delete;

 private:
  TraceSpan span_;
  Activity outer_;
};

}  // namespace archon
