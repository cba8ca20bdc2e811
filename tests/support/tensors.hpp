#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>

#include <boost/test/unit_test.hpp>
#include <cstdint>
#include <vector>

namespace archon::test {

/// Numbers in (-1, 1) without a pattern, the same for the same seed; float64.
inline at::Tensor noise(const std::vector<int64_t>& shape, int64_t seed) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return at::arange(count, at::kDouble)
      .add(1 + 1000 * seed)
      .mul(12.9898)
      .sin()
      .mul(437.585453)
      .frac()
      .view(shape);
}

/// A leaf that collects a gradient.
inline at::Tensor leaf(const at::Tensor& x) { return x.clone().requires_grad_(true); }

/// Largest difference as a share of `want`'s largest magnitude.
inline double relative_error(const at::Tensor& got, const at::Tensor& want) {
  BOOST_REQUIRE(got.defined());
  BOOST_REQUIRE_EQUAL(got.sizes(), want.sizes());
  if (want.numel() == 0) return 0;
  const double error = (got.to(at::kDouble) - want.to(at::kDouble)).abs().max().item<double>();
  const double scale = want.to(at::kDouble).abs().max().item<double>();
  return error == 0 ? 0 : error / scale;
}

}  // namespace archon::test

/// NaN fails too.
#define ARCHON_CHECK_NEAR(got, want, bound)                                            \
  do {                                                                                 \
    const double archon_error = ::archon::test::relative_error(got, want);             \
    BOOST_CHECK_MESSAGE(archon_error <= (bound),                                       \
                        #got << " is off by " << archon_error << ", bound " << bound); \
  } while (false)
