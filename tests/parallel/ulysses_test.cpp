// The all-to-alls of Ulysses against plain slicing of the whole stream.
#include "archon/parallel/ulysses.hpp"

#include <ATen/ops/zeros_like.h>

#include "support/tensors.hpp"
#include "support/ulysses_cases.hpp"
#include "support/world.hpp"

using archon::Communicator;
using archon::UlyssesHeads;
using archon::test::heads_of_rank;
using archon::test::layouts;
using archon::test::leaf;
using archon::test::noise;
using archon::test::world_group;

namespace {

constexpr int64_t kDim = 3;

at::Tensor slice_of(const at::Tensor& whole, const Communicator& cp) {
  const int64_t tokens = whole.size(0) / cp.size();
  return whole.narrow(0, cp.rank() * tokens, tokens);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(ulysses)

BOOST_AUTO_TEST_CASE(scatter_gives_every_rank_its_heads_of_all_tokens) {
  const Communicator cp = world_group();
  bool repeated = false;
  for (const UlyssesHeads& layout : layouts(cp.size()))
    BOOST_TEST_CONTEXT(layout.heads << " heads, " << layout.kv_heads << " kv heads") {
      const at::Tensor whole =
          noise({5 * cp.size(), layout.heads + 2 * layout.kv_heads, kDim}, 1).to(at::kFloat);
      const at::Tensor mine = leaf(slice_of(whole, cp));
      const at::Tensor got = archon::ulysses_scatter_heads(mine, layout, cp);
      BOOST_TEST(got.equal(heads_of_rank(whole, layout, cp.rank())));

      // Each head's gradient is the sum over the ranks that it went to.
      at::Tensor whole_leaf = leaf(whole);
      for (int rank = 0; rank < cp.size(); ++rank) {
        const at::Tensor part = heads_of_rank(whole_leaf, layout, rank);
        part.backward(noise(part.sizes().vec(), 10 + rank).to(at::kFloat));
      }
      got.backward(noise(got.sizes().vec(), 10 + cp.rank()).to(at::kFloat));
      ARCHON_CHECK_NEAR(mine.grad(), slice_of(whole_leaf.grad(), cp), 1e-6);
      repeated = repeated || layout.kv_heads < cp.size();
    }
  BOOST_TEST(repeated == (cp.size() > 1));
}

BOOST_AUTO_TEST_CASE(gather_gives_every_rank_all_heads_of_its_tokens) {
  const Communicator cp = world_group();
  for (const int64_t heads_per_rank : {1, 2, 3}) {
    const at::Tensor whole =
        noise({5 * cp.size(), heads_per_rank * cp.size(), kDim}, 1).to(at::kFloat);
    const auto heads_block = [&](const at::Tensor& x) {
      return x.narrow(1, cp.rank() * heads_per_rank, heads_per_rank);
    };
    const at::Tensor mine = leaf(heads_block(whole));
    const at::Tensor got = archon::ulysses_gather_heads(mine, cp);
    BOOST_TEST(got.equal(slice_of(whole, cp)));
    const at::Tensor probe = noise(whole.sizes().vec(), 2).to(at::kFloat);
    got.backward(slice_of(probe, cp));
    BOOST_TEST(mine.grad().equal(heads_block(probe)));
  }
}

// 256 and three ones: summed in bfloat16 step by step they would stay 256.
BOOST_AUTO_TEST_CASE(gradients_of_repeated_heads_round_once) {
  const Communicator cp = world_group();
  const UlyssesHeads layout{cp.size(), 1, cp.size()};
  const at::Tensor mine = leaf(noise({2, layout.heads + 2, kDim}, 1).to(at::kBFloat16));
  const at::Tensor got = archon::ulysses_scatter_heads(mine, layout, cp);
  got.backward(at::zeros_like(got).fill_(cp.rank() == 0 ? 256 : 1));
  const at::Tensor want = at::zeros_like(mine).narrow(1, layout.heads, 2).fill_(255 + cp.size());
  BOOST_TEST(mine.grad().narrow(1, layout.heads, 2).equal(want));
}

BOOST_AUTO_TEST_CASE(one_rank_keeps_what_it_has) {
  const Communicator self = Communicator::self();
  const at::Tensor qkv = noise({4, 6, kDim}, 1), out = noise({4, 2, kDim}, 2);
  BOOST_TEST(archon::ulysses_scatter_heads(qkv, {2, 2, 1}, self).is_same(qkv));
  BOOST_TEST(archon::ulysses_gather_heads(out, self).is_same(out));
}

BOOST_AUTO_TEST_SUITE_END()
