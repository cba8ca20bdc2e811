#include "archon/parallel/offload.hpp"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>

#include <boost/test/unit_test.hpp>
#include <vector>

#include "support/host_device.hpp"
#include "support/host_gpu.hpp"

using namespace archon;
using namespace archon::test;

namespace {

/// Streams are threads there, whose copies come late.
struct OffloadedStack {
  HostGpu gpu{host_device()};
  ActivationOffload offload{gpu};

  static at::Tensor value(int i) { return at::full({3, 5}, i); }
  std::shared_ptr<ActivationOffload::Stored> store(int i) {
    return offload.store(value(i).to(host_device()));
  }
  void check(const std::shared_ptr<ActivationOffload::Stored>& stored, int i) {
    const at::Tensor back = offload.take(stored);
    BOOST_TEST(gpu.owns(back));
    BOOST_TEST(at::equal(back.cpu(), value(i)));
  }
  ~OffloadedStack() {
    for (const std::string& breach : gpu.take_breaches()) BOOST_ERROR(breach);
  }
};

}  // namespace

BOOST_FIXTURE_TEST_CASE(what_was_stored_last_comes_back_first, OffloadedStack) {
  for (const int micro_batch : {0, 10}) {
    std::vector<std::shared_ptr<ActivationOffload::Stored>> layers;
    for (int i = 0; i < 4; ++i) layers.push_back(store(micro_batch + i));
    for (int i = 3; i >= 0; --i) check(layers[i], micro_batch + i);
  }
}

BOOST_FIXTURE_TEST_CASE(any_other_order_gives_the_same, OffloadedStack) {
  const auto first = store(1), second = store(2), third = store(3);
  check(second, 2);
  check(third, 3);
  check(first, 1);
}

BOOST_FIXTURE_TEST_CASE(a_graph_that_is_dropped_leaves_nothing_behind, OffloadedStack) {
  const auto kept = store(1);
  const std::weak_ptr<ActivationOffload::Stored> dropped = store(2);
  BOOST_TEST(dropped.expired());
  check(kept, 1);
}
