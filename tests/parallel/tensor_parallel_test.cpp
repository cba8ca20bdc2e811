// Tensor-parallel layers against the unsharded formula, in float64 where the layer allows it.
#include "archon/parallel/tensor_parallel.hpp"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "archon/parallel/partition.hpp"
#include "support/tensors.hpp"
#include "support/world.hpp"

using archon::Communicator;
using archon::even_range;
using archon::Range;
using archon::test::leaf;
using archon::test::noise;
using archon::test::world_group;

namespace {

at::Tensor block(const at::Tensor& x, int64_t dim, const Communicator& comm) {
  const Range range = even_range(x.size(dim), comm.size(), comm.rank());
  return x.narrow(dim, range.begin, range.size());
}

}  // namespace

BOOST_AUTO_TEST_SUITE(tensor_parallel)

BOOST_AUTO_TEST_CASE(column_parallel_linear_is_a_block_of_the_features) {
  const Communicator tp = world_group();
  for (const int64_t out : {12, 13}) {
    const int64_t tokens = 2 * tp.size();
    const at::Tensor x = noise({tokens, 5}, 1), weight = noise({out, 5}, 2), bias = noise({out}, 3),
                     probe = noise({tokens, out}, 4);
    const at::Tensor my_x = leaf(block(x, 0, tp).to(at::kFloat)),
                     my_weight = leaf(block(weight, 0, tp).to(at::kFloat)),
                     my_bias = leaf(block(bias, 0, tp).to(at::kFloat));
    const at::Tensor y = archon::column_parallel_linear(my_x, my_weight, my_bias, tp);
    ARCHON_CHECK_NEAR(y.detach(), block(x.matmul(weight.t()) + bias, 1, tp), 1e-6);
    y.backward(block(probe, 1, tp).to(at::kFloat));
    // Every rank's features have a part in the gradient of x.
    ARCHON_CHECK_NEAR(my_x.grad(), block(probe.matmul(weight), 0, tp), 1e-6);
    ARCHON_CHECK_NEAR(my_weight.grad(), block(probe.t().matmul(x), 0, tp), 1e-6);
    ARCHON_CHECK_NEAR(my_bias.grad(), block(probe.sum(0), 0, tp), 1e-6);
  }
}

BOOST_AUTO_TEST_CASE(row_parallel_linear_sums_over_the_features) {
  const Communicator tp = world_group();
  for (const int64_t in : {12, 13}) {
    const int64_t tokens = 2 * tp.size();
    const at::Tensor x = noise({tokens, in}, 1), weight = noise({5, in}, 2),
                     probe = noise({tokens, 5}, 4);
    const at::Tensor my_x = leaf(block(x, 1, tp).to(at::kFloat)),
                     my_weight = leaf(block(weight, 1, tp).to(at::kFloat));
    const at::Tensor y = archon::row_parallel_linear(my_x, my_weight, tp);
    ARCHON_CHECK_NEAR(y.detach(), block(x.matmul(weight.t()), 0, tp), 1e-6);
    y.backward(block(probe, 0, tp).to(at::kFloat));
    ARCHON_CHECK_NEAR(my_x.grad(), block(probe.matmul(weight), 1, tp), 1e-6);
    ARCHON_CHECK_NEAR(my_weight.grad(), block(probe.t().matmul(x), 1, tp), 1e-6);
  }
}

BOOST_AUTO_TEST_CASE(vocab_parallel_embedding_looks_up_all_rows) {
  const Communicator tp = world_group();
  // The last vocabulary has fewer rows than there may be ranks.
  for (const int64_t vocab : {12, 13, 2}) {
    const int64_t tokens = 4 * tp.size();
    std::vector<int64_t> ids;
    for (int64_t t = 0; t < tokens; ++t) ids.push_back((5 * t + t * t) % vocab);
    const at::Tensor table = noise({vocab, 3}, 1), probe = noise({tokens, 3}, 2);
    at::Tensor want = at::zeros({tokens, 3}, at::kDouble),
               grad = at::zeros({vocab, 3}, at::kDouble);
    for (int64_t t = 0; t < tokens; ++t) {
      want[t] = table[ids[t]];
      grad[ids[t]] += probe[t];
    }
    const Range rows = even_range(vocab, tp.size(), tp.rank());
    const at::Tensor mine = leaf(table.narrow(0, rows.begin, rows.size()).to(at::kFloat));
    const at::Tensor y = archon::vocab_parallel_embedding(at::tensor(ids), mine, rows.begin, tp);
    ARCHON_CHECK_NEAR(y.detach(), block(want, 0, tp), 1e-7);
    y.backward(block(probe, 0, tp).to(at::kFloat));
    ARCHON_CHECK_NEAR(mine.grad(), grad.narrow(0, rows.begin, rows.size()), 1e-6);
  }
}

// 256 gradients of 1/256 and one of 1: bfloat16 would stay at 1.
BOOST_AUTO_TEST_CASE(bfloat16_embedding_gradients_accumulate_in_float32) {
  const Communicator self = Communicator::self();
  const at::Tensor table = leaf(noise({2, 1}, 1).to(at::kBFloat16));
  at::Tensor probe = at::zeros({257, 1}).add(1.0 / 256);
  probe[0] = 1;
  archon::vocab_parallel_embedding(at::zeros({257}, at::kLong), table, 0, self)
      .backward(probe.to(at::kBFloat16));
  BOOST_TEST(table.grad()[0].item<float>() == 2);
  BOOST_TEST(table.grad()[1].item<float>() == 0);
}

BOOST_AUTO_TEST_SUITE_END()
