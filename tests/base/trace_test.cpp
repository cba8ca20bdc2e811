// What a rank says of its own time: the trace, and seconds by activity.
#include "archon/base/trace.hpp"

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <numeric>
#include <string>
#include <thread>

#include "archon/base/activity.hpp"

using namespace archon;

namespace {

void pass(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

const TraceEvent& find(const std::vector<TraceEvent>& events, const std::string& name) {
  for (const TraceEvent& event : events)
    if (event.name == name) return event;
  BOOST_FAIL("no span " << name);
  throw;
}

double spent(const ActivitySeconds& before, Activity activity) {
  const auto index = static_cast<std::size_t>(activity);
  return activity_seconds()[index] - before[index];
}

}  // namespace

BOOST_AUTO_TEST_SUITE(traces)

BOOST_AUTO_TEST_CASE(nothing_is_recorded_when_off) {
  trace::take();
  {
    const TraceSpan span("unseen");
    TraceOperation("unseen too").complete();
  }
  BOOST_TEST(trace::take().empty());
}

BOOST_AUTO_TEST_CASE(spans_nest_and_say_what_they_carry) {
  trace::start();
  {
    const TraceSpan outer("outer", {.number = 7});
    const TraceSpan inner("inner", {.axis = "tp", .bytes = 64});
  }
  trace::stop();
  const auto events = trace::take();
  BOOST_REQUIRE_EQUAL(events.size(), 2u);
  const TraceEvent &outer = find(events, "outer"), &inner = find(events, "inner");
  BOOST_TEST(outer.begin <= inner.begin);
  BOOST_TEST(inner.begin <= inner.end);
  BOOST_TEST(inner.end <= outer.end);
  BOOST_TEST(outer.detail.number == 7);
  BOOST_TEST((outer.detail.axis == nullptr));
  BOOST_TEST(inner.detail.axis == "tp");
  BOOST_TEST(inner.detail.bytes == 64);
  BOOST_TEST(!outer.async);
  BOOST_TEST(trace::take().empty());
}

BOOST_AUTO_TEST_CASE(what_began_in_time_is_recorded_to_its_end) {
  const TraceSpan before("before");
  trace::start();
  const TraceOperation under_way("under way");
  trace::stop();
  const TraceSpan after("after");
  under_way.complete();
  const auto events = trace::take();
  BOOST_REQUIRE_EQUAL(events.size(), 1u);
  BOOST_TEST(events[0].async);
}

BOOST_AUTO_TEST_CASE(each_thread_has_a_track) {
  trace::start();
  const TraceOperation begun_here("operation");
  { const TraceSpan span("here"); }
  std::thread([&] {
    const TraceSpan span("there");
    begun_here.complete();
  }).join();
  trace::stop();
  const auto events = trace::take();
  BOOST_REQUIRE_EQUAL(events.size(), 3u);
  BOOST_TEST(find(events, "here").thread == 0);
  BOOST_TEST(find(events, "there").thread > 0);
  BOOST_TEST(find(events, "operation").begin <= find(events, "there").begin);
}

BOOST_AUTO_TEST_CASE(every_moment_counts_for_the_innermost_activity) {
  const auto start = std::chrono::steady_clock::now();
  const ActivitySeconds before = activity_seconds();
  pass(20);
  {
    const ActivityScope writing(Activity::io, "write");
    pass(40);
    const ActivityScope waiting(Activity::communication, "gather");
    pass(80);
  }
  const double io = spent(before, Activity::io);
  const double communication = spent(before, Activity::communication);
  BOOST_TEST(io >= 0.04);
  BOOST_TEST(communication >= 0.08);
  BOOST_TEST(spent(before, Activity::data) == 0);
  BOOST_TEST(spent(before, Activity::compute) >= 0.02);
  // An inner scope that also counted for the outer one would make the sum exceed the time.
  const ActivitySeconds after = activity_seconds();
  const double elapsed =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const auto sum = [](const ActivitySeconds& s) {
    return std::accumulate(s.begin(), s.end(), 0.0);
  };
  BOOST_TEST(sum(after) - sum(before) <= elapsed);
  BOOST_TEST(sum(after) - sum(before) >= 0.14);
}

BOOST_AUTO_TEST_CASE(another_thread_has_an_account_of_its_own) {
  const ActivitySeconds before = activity_seconds();
  std::thread([] {
    const ActivityScope reading(Activity::data, "read");
    pass(20);
  }).join();
  BOOST_TEST(spent(before, Activity::data) == 0);
  BOOST_TEST(spent(before, Activity::compute) >= 0.02);
}

BOOST_AUTO_TEST_SUITE_END()
