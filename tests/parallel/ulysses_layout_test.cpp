// The index arithmetic that the CUDA kernels of Ulysses share, run here an element at a time as
// they do, against slicing by LibTorch.
#include "ulysses_layout.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <boost/test/unit_test.hpp>

#include "support/ulysses_cases.hpp"

using archon::UlyssesHeads;
using archon::test::heads_of_rank;
using archon::test::layouts;
using archon::ulysses::HeadBlocks;
using archon::ulysses::RowParts;

namespace {

constexpr int64_t kTokens = 5, kDim = 3;

at::Tensor numbered(at::IntArrayRef shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return at::arange(count, at::kFloat).view(shape);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(ulysses_layout)

BOOST_AUTO_TEST_CASE(blocks_hold_the_heads_of_their_ranks) {
  for (const int cp : {1, 2, 3, 4, 8})
    for (const UlyssesHeads& layout : layouts(cp)) {
      const HeadBlocks index{layout, kTokens, kDim};
      const at::Tensor whole = numbered({kTokens, layout.whole(), kDim});
      std::vector<at::Tensor> wanted;
      for (int rank = 0; rank < cp; ++rank) wanted.push_back(heads_of_rank(whole, layout, rank));
      const at::Tensor want = at::stack(wanted).contiguous();
      BOOST_REQUIRE(want.numel() == index.block_elements());
      for (int64_t i = 0; i < index.block_elements(); ++i) {
        BOOST_REQUIRE(whole.data_ptr<float>()[index.whole_of(i)] == want.data_ptr<float>()[i]);
        BOOST_REQUIRE(index.rank_of(i) == i / (index.block_elements() / cp));
      }
    }
}

BOOST_AUTO_TEST_CASE(every_copy_of_an_element_is_found_once) {
  for (const int cp : {1, 2, 3, 4, 8})
    for (const UlyssesHeads& layout : layouts(cp)) {
      const HeadBlocks index{layout, kTokens, kDim};
      std::vector<int> found(index.block_elements(), 0);
      BOOST_REQUIRE(index.whole_elements() == kTokens * layout.whole() * kDim);
      for (int64_t j = 0; j < index.whole_elements(); ++j) {
        const HeadBlocks::Copies copies = index.copies_of(j);
        for (int c = 0; c < copies.ranks; ++c) {
          const int64_t i = copies.first + c * copies.stride;
          BOOST_REQUIRE(index.whole_of(i) == j);
          BOOST_REQUIRE(index.rank_of(i) == copies.rank + c);
          ++found[i];
        }
      }
      BOOST_REQUIRE(std::all_of(found.begin(), found.end(), [](int n) { return n == 1; }));
    }
}

BOOST_AUTO_TEST_CASE(rows_are_blocks_with_the_first_two_dims_exchanged) {
  for (const int cp : {1, 2, 3, 8}) {
    const RowParts index{cp, kTokens, 7};
    const at::Tensor rows = numbered({kTokens, cp, 7});
    const at::Tensor want = rows.transpose(0, 1).contiguous();
    for (int64_t i = 0; i < index.elements(); ++i) {
      BOOST_REQUIRE(rows.data_ptr<float>()[index.row_of(i)] == want.data_ptr<float>()[i]);
      BOOST_REQUIRE(index.rank_of(i) == i / (kTokens * 7));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
