#include "archon/optim/schedule.hpp"

#include <boost/test/unit_test.hpp>
#include <limits>

#include "archon/base/error.hpp"
#include "archon/optim/clip.hpp"

using archon::LrSchedule;
using Shape = archon::LrSchedule::Shape;

namespace {
LrSchedule make(Shape shape, int64_t warmup, int64_t total, double min_ratio = 0.1) {
  return {.shape = shape,
          .lr = 2.0,
          .warmup_steps = warmup,
          .total_steps = total,
          .min_ratio = min_ratio};
}
constexpr double kTolerance = 1e-14;
}  // namespace

BOOST_AUTO_TEST_SUITE(schedule)

BOOST_AUTO_TEST_CASE(warm_up_rises_linearly_to_lr) {
  for (const Shape shape : {Shape::constant, Shape::linear, Shape::cosine}) {
    const LrSchedule schedule = make(shape, 4, 12);
    BOOST_TEST(schedule.at(1) == 0.5);
    BOOST_TEST(schedule.at(2) == 1.0);
    BOOST_TEST(schedule.at(4) == 2.0);
  }
}

BOOST_AUTO_TEST_CASE(constant_stays) {
  const LrSchedule schedule = make(Shape::constant, 4, 12);
  for (const int64_t step : {4, 5, 12, 13}) BOOST_TEST(schedule.at(step) == 2.0);
  BOOST_TEST(make(Shape::constant, 0, 0).at(1) == 2.0);
}

BOOST_AUTO_TEST_CASE(linear_decays_to_the_minimum_at_the_last_step) {
  const LrSchedule schedule = make(Shape::linear, 4, 12);
  BOOST_TEST(schedule.at(5) == 2.0 * (0.1 + 0.9 * 7 / 8), boost::test_tools::tolerance(kTolerance));
  BOOST_TEST(schedule.at(8) == 2.0 * 0.55, boost::test_tools::tolerance(kTolerance));
  BOOST_TEST(schedule.at(12) == 2.0 * 0.1);
  BOOST_TEST(schedule.at(13) == 2.0 * 0.1);
}

BOOST_AUTO_TEST_CASE(cosine_decays_to_the_minimum_at_the_last_step) {
  const LrSchedule schedule = make(Shape::cosine, 4, 12);
  // 0.5·(1 + cos(pi/8)), half way, and the end.
  BOOST_TEST(schedule.at(5) == 2.0 * (0.1 + 0.9 * 0.96193976625564337),
             boost::test_tools::tolerance(kTolerance));
  BOOST_TEST(schedule.at(8) == 2.0 * 0.55, boost::test_tools::tolerance(kTolerance));
  BOOST_TEST(schedule.at(12) == 2.0 * 0.1);
}

BOOST_AUTO_TEST_CASE(without_warm_up_decay_takes_all_steps) {
  BOOST_TEST(make(Shape::linear, 0, 4, 0.0).at(1) == 1.5);
  BOOST_TEST(make(Shape::linear, 0, 4, 0.0).at(4) == 0.0);
  BOOST_TEST(make(Shape::cosine, 0, 4, 0.0).at(4) == 0.0);
}

BOOST_AUTO_TEST_CASE(warm_up_as_long_as_the_run_leaves_no_decay) {
  for (const Shape shape : {Shape::linear, Shape::cosine}) {
    BOOST_TEST(make(shape, 10, 10).at(10) == 2.0);
    BOOST_TEST(make(shape, 20, 10).at(10) == 1.0);
    BOOST_TEST(make(shape, 10, 10).at(11) == 0.2);
  }
}

BOOST_AUTO_TEST_CASE(names_are_parsed) {
  BOOST_TEST((archon::parse_lr_schedule("constant") == Shape::constant));
  BOOST_TEST((archon::parse_lr_schedule("linear") == Shape::linear));
  BOOST_TEST((archon::parse_lr_schedule("cosine") == Shape::cosine));
  for (const char* text : {"", "Cosine", "polynomial"})
    BOOST_CHECK_THROW(archon::parse_lr_schedule(text), archon::InputError);
}

BOOST_AUTO_TEST_CASE(clip_coefficient_shortens_only) {
  BOOST_TEST(archon::clip_coefficient(4.0, 1.0) == 1.0 / (4.0 + 1e-6));
  BOOST_TEST(archon::clip_coefficient(0.5, 1.0) == 1.0);
  BOOST_TEST(archon::clip_coefficient(1.0, 1.0) == 1.0 / (1.0 + 1e-6));
  BOOST_TEST(archon::clip_coefficient(0.0, 1e-9) == 1e-9 / 1e-6);
  BOOST_TEST(archon::clip_coefficient(1e9, 0.0) == 1.0);
  BOOST_TEST(archon::clip_coefficient(std::numeric_limits<double>::infinity(), 1.0) == 0.0);
}

BOOST_AUTO_TEST_SUITE_END()
