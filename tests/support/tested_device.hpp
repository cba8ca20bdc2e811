#pragma once

#include "archon/mesh/topology.hpp"
#ifdef ARCHON_TEST_DEVICE
#include <boost/test/unit_test.hpp>

#include "support/host_device.hpp"
#include "support/host_gpu.hpp"
#endif

/// Tests of the engine run on the CPU; built with ARCHON_TEST_DEVICE on the stand-in for GPUs, and with
/// ARCHON_TEST_CUDA on GPUs. What they write has a folder with kDeviceSuffix.
namespace archon::test {

#ifdef ARCHON_TEST_DEVICE

inline constexpr DeviceChoice kTestedDevice = DeviceChoice::cuda;
inline constexpr bool kStandIn = true;
inline constexpr const char* kDeviceSuffix = "-device";

struct HostGpus {
  HostGpus() { use_host_gpus(); }
};
BOOST_TEST_GLOBAL_FIXTURE(HostGpus);

/// Of each test case: at its end, no rule of streams, events and groups was broken.
struct DeviceRules {
  ~DeviceRules() {
    for (const std::string& breach : HostGpu::left_breaches()) BOOST_ERROR(breach);
  }
};

#else

inline constexpr bool kStandIn = false;
#ifdef ARCHON_TEST_CUDA
inline constexpr DeviceChoice kTestedDevice = DeviceChoice::cuda;
inline constexpr const char* kDeviceSuffix = "-cuda";
#else
inline constexpr DeviceChoice kTestedDevice = DeviceChoice::cpu;
inline constexpr const char* kDeviceSuffix = "";
#endif

struct DeviceRules {};

#endif

}  // namespace archon::test
