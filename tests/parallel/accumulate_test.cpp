#include "archon/parallel/accumulate.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>

#include <boost/test/unit_test.hpp>

using namespace archon;

BOOST_AUTO_TEST_CASE(accumulate_adds_in_float32_whatever_the_type) {
  for (const auto type : {at::kFloat, at::kBFloat16})
    for (const int64_t count : {0, 1, 17, 100'003}) {
      const at::Tensor sum = at::randn({count}), part = at::randn({count}).to(type);
      const at::Tensor wanted = sum.add(part.to(at::kFloat));
      accumulate(sum, part);
      BOOST_TEST(at::equal(sum, wanted));
    }
}
