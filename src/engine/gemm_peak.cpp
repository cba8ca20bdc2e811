#include "archon/engine/gemm_peak.hpp"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>
#include <type_traits>

#include "archon/parallel/device_copy.hpp"
#include "archon/parallel/matmul.hpp"

namespace archon {
namespace {

// What else happens on the machine slows some of them, and makes none faster.
constexpr int kRounds = 3;
// Products that a run can spare the time for.
constexpr int64_t kRunSize = 768, kRunGpuSize = 8192;
constexpr double kRunSeconds = 0.03;

template <class Body>
double seconds_of(Body body) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  body();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

GemmPeak::GemmPeak(at::ScalarType dtype, int64_t size, at::Device device)
    : a_(at::randn({size, size}, dtype).to(device)),
      b_(at::randn({size, size}, dtype).to(device)) {}

template <class Product>
double GemmPeak::rate(const Communicator& world, double seconds, Product product) const {
  product();
  wait_for(a_.device());
  const double mine = seconds_of([&] {
    product();
    wait_for(a_.device());
  });
  const auto once = world.all_reduce(mine, ReduceOp::max);
  const auto repetitions = static_cast<int64_t>(std::ceil(seconds / kRounds / once));
  double fastest = std::numeric_limits<double>::infinity();
  for (int round = 0; round < kRounds; ++round) {
    world.barrier();
    // To the end of the last rank: where ranks share a core, each would find it free in its turn.
    fastest = std::min(fastest, seconds_of([&] {
                         for (int64_t i = 0; i < repetitions; ++i) product();
                         wait_for(a_.device());
                         world.barrier();
                       }));
  }
  const auto size = static_cast<double>(a_.size(0));
  const double flop = 2 * size * size * size * static_cast<double>(repetitions * world.size());
  return flop * 1e-9 / world.all_reduce(fastest, ReduceOp::max);
}

double GemmPeak::measure(const Communicator& world, double seconds) const {
  at::Tensor c = at::empty_like(a_);
  const double mm = rate(world, seconds, [&] { at::mm_out(c, a_, b_.t()); });
  return std::max(mm, rate(world, seconds, [&] { matmul_nt(a_, b_); }));
}

double gemm_peak(const Mesh& mesh, at::ScalarType dtype) {
  const at::Device device = mesh.device();
  const std::tuple kind(dtype, device.type(), mesh.world().size());
  static std::map<std::remove_const_t<decltype(kind)>, double> measured;
  if (const auto known = measured.find(kind); known != measured.end()) return known->second;
  const GemmPeak peak(dtype, device.is_cuda() ? kRunGpuSize : kRunSize, device);
  return measured[kind] = peak.measure(mesh.world(), kRunSeconds);
}

}  // namespace archon
