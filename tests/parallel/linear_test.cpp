#include "archon/parallel/linear.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <cmath>

#include "archon/parallel/matmul.hpp"
#include "support/tensors.hpp"

using archon::test::leaf;
using archon::test::noise;

namespace {

struct Case {
  int64_t tokens, in, out;
};
constexpr Case kCases[] = {{1, 1, 1}, {7, 5, 3}, {64, 48, 96}, {0, 4, 3}, {5, 4, 0}};

void check_linear(const Case& c, at::ScalarType dtype, bool with_bias, double bound) {
  const at::Tensor x = leaf(noise({c.tokens, c.in}, 1).to(dtype)),
                   weight = leaf(noise({c.out, c.in}, 2).to(dtype)),
                   bias = leaf(noise({c.out}, 3).to(dtype)),
                   probe = noise({c.tokens, c.out}, 4).to(dtype);
  const at::Tensor x64 = leaf(x.detach().to(at::kDouble)),
                   weight64 = leaf(weight.detach().to(at::kDouble)),
                   bias64 = leaf(bias.detach().to(at::kDouble));
  const at::Tensor y = archon::linear(x, weight, with_bias ? bias : at::Tensor());
  at::Tensor y64 = x64.matmul(weight64.t());
  if (with_bias) y64 = y64 + bias64;
  BOOST_TEST((y.scalar_type() == dtype));
  ARCHON_CHECK_NEAR(y.detach(), y64.detach(), bound);
  y.backward(probe);
  y64.backward(probe.to(at::kDouble));
  ARCHON_CHECK_NEAR(x.grad(), x64.grad(), bound);
  ARCHON_CHECK_NEAR(weight.grad(), weight64.grad(), bound);
  if (with_bias) ARCHON_CHECK_NEAR(bias.grad(), bias64.grad(), bound);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(linear)

BOOST_AUTO_TEST_CASE(equals_the_formula_with_gradients) {
  for (const Case& c : kCases)
    for (const bool with_bias : {false, true}) {
      check_linear(c, at::kFloat, with_bias, 1e-6);
      check_linear(c, at::kBFloat16, with_bias, 2e-2);
    }
}

BOOST_AUTO_TEST_CASE(only_what_needs_a_gradient_gets_one) {
  const at::Tensor x = noise({3, 4}, 1).to(at::kFloat),
                   weight = leaf(noise({2, 4}, 2).to(at::kFloat));
  archon::linear(x, weight).sum().backward();
  BOOST_TEST(!x.grad().defined());
  ARCHON_CHECK_NEAR(weight.grad(), x.sum(0).expand({2, 4}), 1e-6);
}

BOOST_AUTO_TEST_CASE(matmul_takes_any_strides) {
  const at::Tensor a = noise({6, 4}, 1), b = noise({4, 5}, 2);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor left = a.to(dtype), right = b.to(dtype);
    const double bound = dtype == at::kFloat ? 1e-6 : 1e-2;
    ARCHON_CHECK_NEAR(archon::matmul_nt(left, right.t()), a.matmul(b), bound);
    ARCHON_CHECK_NEAR(archon::matmul_nt(left.t().contiguous().t(), right.t()), a.matmul(b), bound);
    ARCHON_CHECK_NEAR(archon::matmul_nt(left.narrow(1, 1, 2), right.narrow(0, 1, 2).t()),
                      a.narrow(1, 1, 2).matmul(b.narrow(0, 1, 2)), bound);
  }
}

BOOST_AUTO_TEST_CASE(weight_gradients_of_any_size) {
  struct Size {
    int64_t out, in, tokens;
  };
  // One panel, block or depth of matmul_tiles.cpp, less, and more.
  for (const Size& size : {Size{1, 1, 1}, {32, 32, 32}, {33, 31, 63}, {20, 70, 2048}, {600, 33, 65},
                           {290, 40, 4099}}) {
    // Numbers in between that belong to neither operand.
    const auto operand = [&](int64_t columns, int64_t seed) {
      const at::Tensor whole = at::full({size.tokens, columns + 3}, NAN, at::kBFloat16);
      whole.narrow(1, 2, columns).copy_(noise({size.tokens, columns}, seed));
      return whole.narrow(1, 2, columns);
    };
    const at::Tensor grad = operand(size.out, 1), x = operand(size.in, 2);
    const at::Tensor product = archon::matmul_nt(grad.t(), x.t());
    BOOST_TEST_CONTEXT(size.out << " x " << size.in << ", " << size.tokens << " tokens") {
      BOOST_TEST(product.is_contiguous());
      ARCHON_CHECK_NEAR(product, grad.to(at::kDouble).t().matmul(x.to(at::kDouble)), 1e-2);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
