// Segments: recomputation, what it keeps, and random numbers.
#include "archon/parallel/segment.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/rand_like.h>

#include "support/mpi_main.hpp"
#include "support/tensors.hpp"
#include "support/world.hpp"

using namespace archon;
using archon::test::leaf;
using archon::test::noise;

namespace {

/// A weight [4, 4] in a unit, sharded over all ranks of the test.
struct OneWeight {
  explicit OneWeight(ShardMode mode)
      : group(test::world_group()),
        sharding({.mode = mode}, group),
        weight({{{"w", {4, 4}}}, TpPlacement::rows}),
        unit("unit", {&weight}) {
    unit.allocate(sharding);
    const Range mine = weight.owned();
    at::Tensor(weight.master())
        .copy_(noise({16}, 1).to(at::kFloat).narrow(0, mine.begin, mine.size()));
    unit.refresh_values();
  }
  Communicator group;
  Sharding sharding;
  Parameter weight;
  ParameterUnit unit;
};

struct Result {
  at::Tensor y, x_grad, weight_grad;
};

using Body = std::function<at::Tensor(const at::Tensor&, const at::Tensor& weight)>;

Result run(ShardMode mode, Recompute recompute, const Body& body) {
  OneWeight model(mode);
  at::Tensor x = leaf(noise({3, 4}, 2).to(at::kFloat));
  const Segment segment{.unit = model.unit, .recompute = recompute};
  const at::Tensor y = run_segment(
      segment, x, [&](const at::Tensor& input) { return body(input, model.weight.value()); });
  at::rand({1});  // what is drawn after the segment, before its backward
  y.square().sum().backward();
  model.sharding.finish_reduction();
  return {y.detach(), x.grad(), model.weight.grad()};
}

at::Tensor plain(const at::Tensor& x, const at::Tensor& weight) {
  return x.matmul(weight).tanh().matmul(weight);
}

constexpr Recompute kAll[] = {Recompute::none, Recompute::selective, Recompute::full};
constexpr ShardMode kModes[] = {ShardMode::none, ShardMode::optimizer, ShardMode::full};

}  // namespace

BOOST_AUTO_TEST_SUITE(segment)

BOOST_AUTO_TEST_CASE(every_mode_gives_autograds_bits) {
  at::Tensor x = leaf(noise({3, 4}, 2).to(at::kFloat));
  at::Tensor weight = leaf(noise({4, 4}, 1).to(at::kFloat));
  const at::Tensor y = plain(x, weight);
  y.square().sum().backward();
  for (const ShardMode mode : kModes)
    for (const Recompute recompute : kAll) {
      const Result got = run(mode, recompute, plain);
      BOOST_TEST(at::equal(got.y, y.detach()));
      BOOST_TEST(at::equal(got.x_grad, x.grad()));
      if (got.weight_grad.numel() == 16 && mode == ShardMode::none)
        BOOST_TEST(at::equal(got.weight_grad.view({4, 4}), weight.grad()));
    }
}

BOOST_AUTO_TEST_CASE(recomputation_draws_the_same_random_numbers) {
  const Body dropout = [](const at::Tensor& x, const at::Tensor& weight) {
    const at::Tensor kept = at::rand_like(x).gt(0.5).to(at::kFloat);
    return (x * kept).matmul(weight);
  };
  for (const Recompute recompute : {Recompute::full, Recompute::selective}) {
    at::Generator generator = at::detail::getDefaultCPUGenerator();
    generator.set_current_seed(7);
    const Result want = run(ShardMode::none, Recompute::none, dropout);
    const at::Tensor next_want = at::rand({2});
    generator.set_current_seed(7);
    const Result got = run(ShardMode::none, recompute, dropout);
    BOOST_TEST(at::equal(got.x_grad, want.x_grad));
    // Recomputing does not disturb what is drawn afterwards.
    BOOST_TEST(at::equal(at::rand({2}), next_want));
  }
}

BOOST_AUTO_TEST_CASE(what_is_run_again) {
  int runs = 0, reused = 0, skipped = 0;
  const Body body = [&](const at::Tensor& x, const at::Tensor& weight) {
    ++runs;
    const auto kept = recomputation::reuse([&] {
      ++reused;
      return recomputation::Tensors{x.detach().mul(2)};
    });
    const at::Tensor last = recomputation::result(WhenRecomputed::skip, {3, 4}, x.options(), [&] {
      ++skipped;
      return x.detach().add(1);
    });
    return x.matmul(weight) * kept.front() + last;
  };
  const auto count = [&](Recompute recompute) {
    runs = reused = skipped = 0;
    const Result result = run(ShardMode::none, recompute, body);
    BOOST_TEST(at::equal(result.x_grad, run(ShardMode::none, Recompute::none, body).x_grad));
    --runs, --reused, --skipped;
    return std::vector<int>{runs, reused, skipped};
  };
  BOOST_TEST(count(Recompute::none) == (std::vector<int>{1, 1, 1}));
  BOOST_TEST(count(Recompute::selective) == (std::vector<int>{2, 1, 1}));
  BOOST_TEST(count(Recompute::full) == (std::vector<int>{2, 2, 1}));
}

BOOST_AUTO_TEST_CASE(tiles_within_a_segment_are_exact) {
  const Body tiled = [](const at::Tensor& x, const at::Tensor& weight) {
    std::vector<at::Tensor> tiles;
    for (const at::Tensor& tile : x.split(2))
      tiles.push_back(run_recomputed(tile, [&](const at::Tensor& t) { return plain(t, weight); }));
    return at::cat(tiles);
  };
  const Result want = run(ShardMode::none, Recompute::none, plain);
  for (const Recompute recompute : kAll) {
    // The tiles hold the weight by reference, so it has to outlive them: run() does that.
    const Result got = run(ShardMode::none, recompute, tiled);
    ARCHON_CHECK_NEAR(got.y, want.y, 1e-6);
    ARCHON_CHECK_NEAR(got.x_grad, want.x_grad, 1e-6);
    ARCHON_CHECK_NEAR(got.weight_grad, want.weight_grad, 1e-6);
  }
}

BOOST_AUTO_TEST_CASE(without_gradients_nothing_is_kept) {
  OneWeight model(ShardMode::full);
  const at::NoGradGuard no_grad;
  const Segment segment{.unit = model.unit, .backward_follows = true};
  const at::Tensor y = run_segment(
      segment, noise({3, 4}, 2).to(at::kFloat),
      [&](const at::Tensor& x) { return plain(x, model.weight.value()); });
  BOOST_TEST(!y.requires_grad());
  BOOST_TEST((model.weight.value().storage().nbytes() == 0) == (model.group.size() > 1));
}

BOOST_AUTO_TEST_SUITE_END()
