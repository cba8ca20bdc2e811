#include "archon/optim/optimizer.hpp"

#include <ATen/Parallel.h>

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <random>

#include "archon/base/error.hpp"
#include "support/world.hpp"

using archon::AdamWOptions;
using archon::OptimizerTensor;
using archon::test::device;

namespace {

/// What an optimizer steps, and the gradient it is given.
struct TestTensor {
  std::string name;
  at::Tensor weight, grad;
  bool decay = true;
  operator OptimizerTensor() const { return {name, weight, decay}; }
};

void step(archon::Optimizer& optimizer, const std::vector<TestTensor>& tensors, double lr,
          double scale) {
  std::vector<at::Tensor> gradients;
  for (const TestTensor& tensor : tensors) gradients.push_back(tensor.grad);
  optimizer.step(gradients, lr, scale);
}

TestTensor make_tensor(const std::string& name, const std::vector<float>& weight) {
  const at::Tensor tensor = at::tensor(weight).to(device());
  return {name, tensor, at::zeros_like(tensor), true};
}

void set(const at::Tensor& tensor, const std::vector<float>& values) {
  at::Tensor(tensor).copy_(at::tensor(values));
}

void check_close(const at::Tensor& computed, const std::vector<double>& expected,
                 double tolerance) {
  const at::Tensor found = computed.cpu();
  BOOST_REQUIRE(found.numel() == static_cast<int64_t>(expected.size()));
  const float* values = found.const_data_ptr<float>();
  for (std::size_t i = 0; i < expected.size(); ++i)
    BOOST_CHECK_SMALL(values[i] - expected[i], tolerance * (std::abs(expected[i]) + 1e-7));
}

std::vector<float> random_values(int64_t count, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<float> values(count);
  for (float& value : values)
    value = static_cast<float>(static_cast<double>(generator() >> 11) * 0x1p-53 - 0.5);
  return values;
}

// AdamW in double, written from the paper's Algorithm 2.
struct Reference {
  std::vector<double> weight, exp_avg, exp_avg_sq;
  AdamWOptions options;
  int step_number = 0;

  Reference(const std::vector<float>& start, const AdamWOptions& given)
      : weight(start.begin(), start.end()),
        exp_avg(start.size()),
        exp_avg_sq(start.size()),
        options(given) {}

  void step(const std::vector<float>& grad, double lr, double scale, bool decay) {
    ++step_number;
    for (std::size_t i = 0; i < weight.size(); ++i) {
      const double g = grad[i] * scale;
      exp_avg[i] = options.beta1 * exp_avg[i] + (1 - options.beta1) * g;
      exp_avg_sq[i] = options.beta2 * exp_avg_sq[i] + (1 - options.beta2) * g * g;
      const double m = exp_avg[i] / (1 - std::pow(options.beta1, step_number));
      const double v = exp_avg_sq[i] / (1 - std::pow(options.beta2, step_number));
      if (decay) weight[i] -= lr * options.weight_decay * weight[i];
      weight[i] -= lr * m / (std::sqrt(v) + options.eps);
    }
  }
};

struct Threads {
  explicit Threads(int count) : before(at::get_num_threads()) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before); }
  int before;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(optimizer)

// Numbers of torch.optim.AdamW (PyTorch 2.13) with the same gradients.
BOOST_AUTO_TEST_CASE(adamw_agrees_with_pytorch) {
  const TestTensor tensor = make_tensor("w", {0.5F, -1.25F, 3.0F, 0.0F, 1e-3F});
  const auto adamw = archon::make_adamw({tensor}, {.beta1 = 0.9, .beta2 = 0.95});
  for (int step = 1; step <= 5; ++step) {
    const float s = static_cast<float>(step);
    set(tensor.grad, {0.1F * s, -0.2F, step % 2 == 0 ? 0.3F : -0.3F, 0.0F, 1e-4F * s});
    ::step(*adamw, {tensor}, 0.01, 1.0);
  }
  check_close(tensor.weight, {0.449751973, -1.19386244, 2.99933481, 0.0, -0.0467553772}, 5e-7);
  const auto state = adamw->state().at("w");
  check_close(state.at("exp_avg"), {0.131440997, -0.0819019973, -0.0251130015, 0.0, 0.000131441004},
              5e-7);
  check_close(state.at("exp_avg_sq"),
              {0.0262832548, 0.00904876273, 0.0203597173, 0.0, 2.62832547e-08}, 5e-7);
  BOOST_TEST(adamw->steps() == 5);
}

BOOST_AUTO_TEST_CASE(adamw_agrees_with_double_precision) {
  const AdamWOptions options{.beta1 = 0.8, .beta2 = 0.99, .eps = 1e-6, .weight_decay = 0.3};
  for (const int64_t count : {1000, 1001}) {  // whole vectors, and not
    const std::vector<float> start = random_values(count, 1);
    TestTensor decayed = make_tensor("decayed", start);
    TestTensor exempt = make_tensor("exempt", start);
    exempt.decay = false;
    const auto adamw = archon::make_adamw({decayed, exempt}, options);
    Reference decayed_reference(start, options), exempt_reference(start, options);
    for (int step = 1; step <= 20; ++step) {
      const std::vector<float> grad = random_values(count, 100 + step);
      const double lr = 0.02 / step;
      const double scale = 1.0 / (1 + step % 3);
      set(decayed.grad, grad);
      set(exempt.grad, grad);
      ::step(*adamw, {decayed, exempt}, lr, scale);
      decayed_reference.step(grad, lr, scale, true);
      exempt_reference.step(grad, lr, scale, false);
    }
    const auto largest_error = [](const at::Tensor& computed, const std::vector<double>& expected) {
      const at::Tensor found = computed.cpu();
      double error = 0;
      for (std::size_t i = 0; i < expected.size(); ++i)
        error = std::max(error, std::abs(found.const_data_ptr<float>()[i] - expected[i]));
      return error;
    };
    BOOST_TEST(largest_error(decayed.weight, decayed_reference.weight) < 1e-6);
    BOOST_TEST(largest_error(exempt.weight, exempt_reference.weight) < 1e-6);
    BOOST_TEST(largest_error(decayed.weight, exempt_reference.weight) > 1e-3);
  }
}

BOOST_AUTO_TEST_CASE(adamw_gives_the_same_bits_with_any_number_of_threads) {
  const auto run = [](int threads) {
    const Threads guard(threads);
    const TestTensor tensor = make_tensor("w", random_values(200003, 7));
    const auto adamw = archon::make_adamw({tensor}, {});
    for (int step = 0; step < 3; ++step) {
      set(tensor.grad, random_values(200003, 8 + step));
      ::step(*adamw, {tensor}, 1e-2, 0.5);
    }
    return tensor.weight;
  };
  BOOST_TEST(at::equal(run(1), run(3)));
}

BOOST_AUTO_TEST_CASE(bfloat16_gradients_count_as_the_float32_numbers_they_are) {
  const auto run = [](bool sgd, at::ScalarType dtype) {
    const TestTensor tensor = make_tensor("w", random_values(1003, 7));
    const auto optimizer = sgd ? archon::make_sgd({tensor}, 0.1) : archon::make_adamw({tensor}, {});
    for (int step = 0; step < 3; ++step) {
      const at::Tensor gradient = at::tensor(random_values(1003, 8 + step)).to(at::kBFloat16);
      optimizer->step({gradient.to(dtype).to(device())}, 1e-2, 0.5);
    }
    return tensor.weight;
  };
  for (const bool sgd : {false, true}) BOOST_TEST_CONTEXT((sgd ? "SGD" : "AdamW"))
  BOOST_TEST(at::equal(run(sgd, at::kBFloat16), run(sgd, at::kFloat)));
}

BOOST_AUTO_TEST_CASE(adamw_goes_on_from_restored_state) {
  const auto step_number = [](archon::Optimizer& optimizer, const TestTensor& tensor, int number) {
    set(tensor.grad, random_values(17, 20 + number));
    step(optimizer, {tensor}, 1e-2, 1.0);
  };
  const TestTensor whole = make_tensor("w", random_values(17, 3));
  const auto straight = archon::make_adamw({whole}, {});
  for (int i = 0; i < 3; ++i) step_number(*straight, whole, i);

  const TestTensor resumed{"w", whole.weight.clone(), at::zeros_like(whole.grad), true};
  const auto second = archon::make_adamw({resumed}, {});
  for (const char* name : {"exp_avg", "exp_avg_sq"})
    second->state().at("w").at(name).copy_(straight->state().at("w").at(name));
  second->set_steps(straight->steps());
  for (int i = 3; i < 5; ++i) {
    step_number(*straight, whole, i);
    step_number(*second, resumed, i);
  }
  BOOST_TEST(at::equal(whole.weight, resumed.weight));
}

BOOST_AUTO_TEST_CASE(sgd_steps_against_the_gradient_and_decays) {
  const TestTensor decayed = make_tensor("a", {1.0F, -2.0F});
  TestTensor exempt = make_tensor("b", {1.0F, -2.0F});
  exempt.decay = false;
  const auto sgd = archon::make_sgd({decayed, exempt}, 0.25);
  set(decayed.grad, {4.0F, 8.0F});
  set(exempt.grad, {4.0F, 8.0F});
  step(*sgd, {decayed, exempt}, 0.5, 0.5);
  // w - 0.5·(0.5·g + 0.25·w), all exact in binary
  check_close(decayed.weight, {-0.125, -3.75}, 1e-7);
  check_close(exempt.weight, {0.0, -4.0}, 1e-7);
  BOOST_TEST(sgd->state().empty());
}

BOOST_AUTO_TEST_CASE(empty_shards_are_stepped) {
  const TestTensor empty{"w", at::zeros({0, 4}), at::zeros({0, 4}), true};
  step(*archon::make_adamw({empty}, {}), {empty}, 0.1, 1.0);
  step(*archon::make_sgd({empty}, 0.1), {empty}, 0.1, 1.0);
}

BOOST_AUTO_TEST_CASE(wrong_tensors_are_refused) {
  const at::Tensor good = at::zeros({4, 4});
  for (const at::Tensor& weight :
       {good.t().narrow(0, 0, 2), good.to(at::kBFloat16), at::Tensor()}) {
    BOOST_CHECK_THROW(archon::make_adamw({{"w", weight}}, {}), archon::RuntimeFailure);
    BOOST_CHECK_THROW(archon::make_sgd({{"w", weight}}, 0.0), archon::RuntimeFailure);
  }
  BOOST_CHECK_THROW(archon::make_adamw({{"w", good}, {"w", good.clone()}}, {}),
                    archon::RuntimeFailure);
}

BOOST_AUTO_TEST_CASE(wrong_gradients_are_refused) {
  const at::Tensor good = at::zeros({4, 4});
  const auto adamw = archon::make_adamw({{"w", good}}, {});
  for (const std::vector<at::Tensor>& gradients : {std::vector<at::Tensor>{},
                                                   {good, good},
                                                   {at::zeros({15})},
                                                   {good.to(at::kDouble)},
                                                   {at::Tensor()}})
    BOOST_CHECK_THROW(adamw->step(gradients, 0.1, 1.0), archon::RuntimeFailure);
  BOOST_TEST(adamw->steps() == 0);
}

BOOST_AUTO_TEST_CASE(betas_outside_their_range_are_refused) {
  BOOST_CHECK_THROW(archon::make_adamw({}, {.beta1 = 1.0}), archon::InputError);
  BOOST_CHECK_THROW(archon::make_adamw({}, {.beta2 = -0.1}), archon::InputError);
  BOOST_CHECK_THROW(archon::make_adamw({}, {.beta2 = NAN}), archon::InputError);
}

BOOST_AUTO_TEST_SUITE_END()
