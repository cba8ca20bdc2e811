// Units that are sharded over a group of ranks: layout, gathering, gradients.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>

#include "archon/parallel/parameter_unit.hpp"
#include "support/mpi_main.hpp"
#include "support/tensors.hpp"
#include "support/world.hpp"

using namespace archon;
using archon::test::noise;

namespace {

constexpr ShardMode kModes[] = {ShardMode::none, ShardMode::optimizer, ShardMode::full};

/// Three parameters whose sizes no number of ranks divides, on all ranks of the test.
struct Sharded {
  explicit Sharded(ShardMode mode, at::ScalarType dtype = at::kFloat, bool reshard = true)
      : group(test::world_group()),
        sharding({.compute_dtype = dtype, .mode = mode, .reshard_after_forward = reshard}, group),
        matrix({{{"a", {5, 3}}, {"b", {2, 3}}}, TpPlacement::rows}),
        norm({{{"norm", {11}}}, TpPlacement::replicated}),
        tiny({{{"tiny", {1, 1}}}, TpPlacement::columns}),
        unit("unit", {&matrix, &norm, &tiny}) {
    unit.allocate(sharding);
    fill(1);
  }

  /// Masters become the numbers 0, 1, 2, ... of each parameter, times `factor`.
  void fill(int factor) {
    for (Parameter* parameter : {&matrix, &norm, &tiny}) {
      const Range mine = parameter->owned();
      for (int64_t i = 0; i < mine.size(); ++i)
        at::Tensor(parameter->master())[i].fill_(static_cast<double>(factor * (mine.begin + i)));
    }
    unit.refresh_values();
  }

  void check_values(int factor) const {
    for (const Parameter* parameter : {&matrix, &norm, &tiny}) {
      const at::Tensor want = at::arange(parameter->local_numel()).mul(factor);
      const at::Tensor got = parameter->value().detach().view({-1}).to(at::kLong);
      BOOST_TEST(at::equal(got, want));
    }
  }

  Communicator group;
  Sharding sharding;
  Parameter matrix, norm, tiny;
  ParameterUnit unit;
};

/// A backward that leaves `gradient` on the parameter's value.
void leave_gradient(const Parameter& parameter, const at::Tensor& gradient) {
  const at::AutoGradMode grad(true);
  const at::Tensor weights = gradient.to(parameter.value().scalar_type());
  parameter.value().mul(weights.view_as(parameter.value())).sum().backward();
}

at::Tensor contribution(int rank, int micro_batch) {
  return noise({21}, 10 * rank + micro_batch).to(at::kFloat);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(sharding)

BOOST_AUTO_TEST_CASE(blocks_are_equal_and_waste_less_than_one_element_per_rank) {
  for (const ShardMode mode : kModes) {
    const Sharded s(mode);
    const int ranks = s.sharding.sharded() ? s.group.size() : 1;
    BOOST_TEST(s.unit.elements() == s.unit.block() * ranks);
    BOOST_TEST(s.unit.elements() - (21 + 11 + 1) < ranks);
    BOOST_TEST(s.unit.elements() >= 21 + 11 + 1);
  }
}

BOOST_AUTO_TEST_CASE(every_element_has_one_owner) {
  const Sharded s(ShardMode::full);
  for (const Parameter* parameter : {&s.matrix, &s.norm, &s.tiny}) {
    int64_t end = 0;
    for (int rank = 0; rank < parameter->place().size; ++rank) {
      const Range range = parameter->owned_by(rank);
      if (range.size() == 0) continue;
      BOOST_TEST(range.begin == end);
      end = range.end;
    }
    BOOST_TEST(end == parameter->local_numel());
    BOOST_TEST(parameter->master().numel() == parameter->owned().size());
  }
  // Parts, too: rows 0 to 4 are "a", 5 and 6 "b".
  int64_t a = s.matrix.owned_part(s.matrix.master(), 0).numel();
  int64_t b = s.matrix.owned_part(s.matrix.master(), 1).numel();
  if (s.sharding.sharded()) a = s.group.all_reduce(a), b = s.group.all_reduce(b);
  BOOST_TEST(a == 15);
  BOOST_TEST(b == 6);
}

BOOST_AUTO_TEST_CASE(values_are_whole_while_gathered) {
  for (const ShardMode mode : kModes)
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      Sharded s(mode, dtype);
      s.unit.gather();
      const at::Tensor view = s.matrix.value().detach().narrow(0, 2, 2);
      s.unit.release(/*after_forward=*/true);
      for (int round = 1; round <= 2; ++round) {
        s.fill(round);
        s.unit.prefetch();
        s.unit.gather();
        s.check_values(round);
        s.unit.release(/*after_forward=*/true);
        s.unit.gather();
        s.check_values(round);
        // Views made before a release show the values of the next gather.
        BOOST_TEST(view[0][0].item<float>() == 6 * round);
        s.unit.release(/*after_forward=*/false);
      }
    }
}

BOOST_AUTO_TEST_CASE(full_sharding_gives_memory_back) {
  Sharded s(ShardMode::full);
  const bool alone = s.group.size() == 1;
  const auto bytes = [&] { return s.matrix.value().storage().nbytes(); };
  BOOST_TEST((bytes() == 0) == !alone);
  s.unit.gather();
  BOOST_TEST(bytes() > 0u);
  s.unit.release(false);
  BOOST_TEST((bytes() == 0) == !alone);

  Sharded held(ShardMode::full, at::kFloat, /*reshard=*/false);
  held.unit.gather();
  held.unit.release(/*after_forward=*/true);
  BOOST_TEST(held.matrix.value().storage().nbytes() > 0u);
  held.unit.release(/*after_forward=*/false);
  BOOST_TEST((held.matrix.value().storage().nbytes() == 0) == !alone);
}

BOOST_AUTO_TEST_CASE(gradients_are_summed_over_ranks_and_micro_batches) {
  for (const ShardMode mode : kModes)
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      Sharded s(mode, dtype);
      if (!s.sharding.sharded()) continue;
      at::Tensor want = at::zeros({21}, at::kDouble);
      for (int micro_batch = 0; micro_batch < 3; ++micro_batch) {
        s.unit.gather();
        leave_gradient(s.matrix, contribution(s.group.rank(), micro_batch));
        s.unit.release(false);
        s.unit.reduce_gradients();
        for (int rank = 0; rank < s.group.size(); ++rank)
          want += contribution(rank, micro_batch).to(dtype);
      }
      s.sharding.finish_reduction();
      const Range mine = s.matrix.owned();
      const at::Tensor got = s.matrix.grad();
      // Sums of bfloat16 numbers, but not rounded to bfloat16.
      if (mine.size() > 0)
        ARCHON_CHECK_NEAR(got, want.narrow(0, mine.begin, mine.size()), 1e-6);
      // The two that got no gradient.
      BOOST_TEST(s.norm.grad().abs().sum().item<float>() == 0);
      BOOST_TEST(s.tiny.grad().abs().sum().item<float>() == 0);
      s.unit.clear_gradients();
      BOOST_TEST(s.matrix.grad().abs().sum().item<float>() == 0);
    }
}

BOOST_AUTO_TEST_CASE(two_gradients_in_one_backward_are_added) {
  Sharded s(ShardMode::full);
  s.unit.gather();
  for (int tile = 0; tile < 2; ++tile) leave_gradient(s.matrix, contribution(0, tile));
  s.unit.reduce_gradients();
  s.sharding.finish_reduction();
  const Range mine = s.matrix.owned();
  const at::Tensor want = (contribution(0, 0) + contribution(0, 1)).mul(s.group.size());
  if (mine.size() > 0)
    ARCHON_CHECK_NEAR(s.matrix.grad(), want.narrow(0, mine.begin, mine.size()), 1e-6);
}

BOOST_AUTO_TEST_SUITE_END()
