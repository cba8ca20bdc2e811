#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/masked_fill.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "archon/base/error.hpp"

namespace archon::test {

inline at::Tensor tensor_of(const std::vector<double>& values) {
  at::Tensor x = at::empty({static_cast<int64_t>(values.size())}, at::kDouble);
  std::copy(values.begin(), values.end(), x.mutable_data_ptr<double>());
  return x;
}

/// A mask from a function of the token's number.
template <class IsTarget>
at::Tensor mask_of(int64_t tokens, const IsTarget& is_target) {
  at::Tensor mask = at::empty({tokens}, at::kBool);
  for (int64_t t = 0; t < tokens; ++t) mask.mutable_data_ptr<bool>()[t] = is_target(t);
  return mask;
}

/// NaN wherever there is no target: what is there must not matter.
inline at::Tensor spoiled(const at::Tensor& x, const at::Tensor& mask) {
  return x.masked_fill(mask.logical_not(), std::numeric_limits<double>::quiet_NaN());
}

inline std::vector<double> numbers(const at::Tensor& x) {
  const at::Tensor values = x.detach().to(at::kDouble).contiguous();
  const auto* first = values.const_data_ptr<double>();
  return {first, first + values.numel()};
}

inline void check_equal(const at::Tensor& got, const std::vector<double>& want,
                        double tolerance = 1e-12) {
  const std::vector<double> values = numbers(got);
  BOOST_REQUIRE_EQUAL(values.size(), want.size());
  for (std::size_t t = 0; t < want.size(); ++t)
    BOOST_CHECK_MESSAGE(std::abs(values[t] - want[t]) <= tolerance * (1 + std::abs(want[t])),
                        "entry " << t << " is " << values[t] << ", not " << want[t]);
}

/// Compares a gradient at x with central differences of f, a function of a vector of numbers.
template <class F>
void check_gradient(const at::Tensor& gradient, const std::vector<double>& x, const F& f) {
  constexpr double kStep = 1e-6;
  const std::vector<double> got = numbers(gradient);
  BOOST_REQUIRE_EQUAL(got.size(), x.size());
  for (std::size_t t = 0; t < x.size(); ++t) {
    std::vector<double> above = x, below = x;
    above[t] += kStep;
    below[t] -= kStep;
    const double slope = (f(above) - f(below)) / (2 * kStep);
    BOOST_CHECK_MESSAGE(std::abs(got[t] - slope) < 1e-7 * (1 + std::abs(slope)),
                        "derivative " << t << " is " << got[t] << ", not " << slope);
  }
}

/// That `action` raises an InputError whose message has all of `words`.
template <class Action>
void check_refused(const Action& action, const std::vector<std::string>& words) {
  BOOST_CHECK_EXCEPTION(action(), InputError, [&](const InputError& error) {
    const std::string message = error.what();
    return std::all_of(words.begin(), words.end(), [&](const std::string& word) {
      return message.find(word) != std::string::npos;
    });
  });
}

}  // namespace archon::test
