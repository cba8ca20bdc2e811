#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/max.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstdint>
#include <string>

#include "archon/io/hdf5.hpp"

/// How golden records are compared: differences as a share of the largest magnitude in the tensor.
namespace archon::test {

constexpr double kBetweenMeshes = 1e-5;
constexpr double kWeightsAfterSteps = 2e-4;
/// Gradients below this share of their tensor's largest are rounding noise.
constexpr double kNoiseGradient = 1e-4;

inline double largest(const at::Tensor& x) {
  return x.numel() == 0 ? 0 : x.abs().max().item<double>();
}

/// Largest difference as a share of `want`'s largest magnitude.
inline double distance(const at::Tensor& want, const at::Tensor& got) {
  BOOST_REQUIRE_EQUAL(want.sizes(), got.sizes());
  const double difference = largest(want.to(at::kDouble) - got.to(at::kDouble));
  return difference == 0 ? 0 : difference / largest(want);
}

inline void check_close(const h5::File& want, const std::string& a, const h5::File& got,
                        const std::string& b, double bound) {
  const double d = distance(want.read(a), got.read(b));
  BOOST_CHECK_MESSAGE(d <= bound, got.path() << ": " << b << " is " << d << " from " << want.path()
                                             << ": " << a << " (bound " << bound << ")");
}

/// Every dataset below `a` must be below `b`.
inline void check_group(const h5::File& want, const std::string& a, const h5::File& got,
                        const std::string& b, double bound) {
  const auto datasets = want.datasets(a);
  BOOST_REQUIRE(!datasets.empty());
  for (const h5::DatasetInfo& info : datasets)
    check_close(want, info.path, got, b + info.path.substr(a.size()), bound);
}

/// Weights after AdamW steps: where the gradient is rounding noise, the direction of a step is
/// noise too, so such elements may be off by two full steps.
inline void check_weights(const h5::File& want, const std::string& a, const h5::File& got,
                          const std::string& b, const std::string& gradients, double lr,
                          int64_t steps) {
  for (const h5::DatasetInfo& info : want.datasets(a)) {
    const std::string name = info.path.substr(a.size());
    const at::Tensor expected = want.read(info.path), actual = got.read(b + name);
    const at::Tensor gradient = want.read(gradients + name).abs();
    const at::Tensor noise = gradient <= kNoiseGradient * largest(gradient);
    const at::Tensor difference = (expected - actual).abs();
    const double elsewhere = largest(difference * noise.logical_not());
    BOOST_CHECK_MESSAGE(elsewhere <= kWeightsAfterSteps * largest(expected),
                        got.path() << ": " << b << name << " is off by " << elsewhere);
    BOOST_CHECK_LE(largest(difference * noise), 2 * lr * static_cast<double>(steps));
  }
}

}  // namespace archon::test
