#include "archon/comm/gpu_device.hpp"

#include <boost/test/unit_test.hpp>

#include "archon/base/error.hpp"
#include "archon/base/host_device.hpp"

using archon::choose_device;
using archon::gpu_support;

BOOST_AUTO_TEST_SUITE(gpu_device)

BOOST_AUTO_TEST_CASE(each_rank_of_a_host_has_a_device_of_its_own) {
  for (int local_rank = 0; local_rank < 4; ++local_rank)
    BOOST_TEST(choose_device(local_rank, 4, 4) == local_rank);
  BOOST_TEST(choose_device(1, 2, 8) == 1);
}

BOOST_AUTO_TEST_CASE(the_only_device_a_launcher_shows_is_taken) {
  for (int local_rank = 0; local_rank < 4; ++local_rank)
    BOOST_TEST(choose_device(local_rank, 4, 1) == 0);
}

BOOST_AUTO_TEST_CASE(more_ranks_than_devices_are_refused) {
  BOOST_CHECK_EXCEPTION(choose_device(2, 4, 2), archon::InputError, [](const auto& error) {
    return std::string(error.what()).find("4 ranks on this host share 2 GPUs") == 0;
  });
}

BOOST_AUTO_TEST_CASE(without_a_device_the_reason_is_told) {
  const archon::GpuSupport support = gpu_support();
  BOOST_TEST((support.devices > 0) == support.why_none.empty());
  if (archon::kCudaBuild) return;
  BOOST_TEST(support.devices == 0);
  BOOST_TEST(support.why_none.find("-DARCHON_CUDA=ON") != std::string::npos);
  BOOST_CHECK_THROW(archon::open_gpu(0), archon::RuntimeFailure);
}

BOOST_AUTO_TEST_SUITE_END()
