// Reading what another program may have written: boxes cut anywhere, many blocks, chunks.
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>

#include <boost/test/unit_test.hpp>

#include "archon/base/error.hpp"
#include "archon/checkpoint/checkpoint_folder.hpp"
#include "saved_checkpoint.hpp"
#include "support/checkpoint_fixture.hpp"

using namespace archon;
using test::CheckpointFixture;
using test::FixtureBox;
using test::mentions;
using test::TemporaryFolder;

namespace {

constexpr int64_t kRows = 1501, kColumns = 2111;  // three blocks and some elements

at::Tensor matrix() { return at::arange(kRows * kColumns, at::kFloat).view({kRows, kColumns}); }

/// A grid of boxes, shared out among three shards.
std::vector<FixtureBox> grid(const std::vector<int64_t>& rows,
                             const std::vector<int64_t>& columns) {
  std::vector<FixtureBox> boxes;
  int shard = 0;
  for (std::size_t i = 0; i + 1 < rows.size(); ++i)
    for (std::size_t j = 0; j + 1 < columns.size(); ++j)
      boxes.push_back(
          {rows[i], rows[i + 1] - rows[i], columns[j], columns[j + 1] - columns[j], shard++ % 3});
  return boxes;
}

at::Tensor read_box(SavedCheckpoint& saved, const Box& box) {
  const at::Tensor elements = at::full({box.elements()}, -1.0, at::kFloat);
  saved.read({{CheckpointFixture::kPath, {kRows, kColumns}, {box}, elements}});
  return elements.view({box.rows.size(), box.columns.size()});
}

at::Tensor part_of(const at::Tensor& whole, const Box& box) {
  return whole.narrow(0, box.rows.begin, box.rows.size())
      .narrow(1, box.columns.begin, box.columns.size());
}

const std::vector<Box> kWanted = {{{0, kRows}, {0, kColumns}},
                                  {{0, 1}, {0, 1}},
                                  {{kRows - 1, kRows}, {5, kColumns}},
                                  {{400, 1200}, {0, kColumns}},
                                  {{496, 497}, {0, kColumns}},  // across the first block's end
                                  {{0, kRows}, {700, 701}},
                                  {{3, 1499}, {600, 1513}}};

void refuse(const std::vector<FixtureBox>& boxes, const char* why) {
  const TemporaryFolder folder;
  const CheckpointFixture fixture(folder / "step-00000001", matrix(), boxes, false);
  SavedCheckpoint saved(fixture.folder());
  BOOST_CHECK_EXCEPTION(read_box(saved, kWanted[0]), InputError,
                        mentions(CheckpointFixture::kPath, why));
}

}  // namespace

BOOST_AUTO_TEST_CASE(boxes_come_out_of_boxes_cut_anywhere) {
  const at::Tensor whole = matrix();
  for (const bool chunked : {false, true})
    for (const auto& boxes :
         {grid({0, kRows}, {0, kColumns}), grid({0, 7, 900, kRows}, {0, kColumns}),
          grid({0, kRows}, {0, 1, 1000, kColumns}),
          grid({0, 333, 1100, kRows}, {0, 501, 502, 1999, kColumns})}) {
      const TemporaryFolder folder;
      const CheckpointFixture fixture(folder / "step-00000001", whole, boxes, chunked);
      SavedCheckpoint saved(fixture.folder());
      for (const Box& box : kWanted)
        BOOST_CHECK(at::equal(read_box(saved, box), part_of(whole, box)));
      BOOST_CHECK(verify_checkpoint(fixture.folder()).empty());
    }
}

BOOST_AUTO_TEST_CASE(several_boxes_of_one_piece_lie_one_behind_the_other) {
  const TemporaryFolder folder;
  const at::Tensor whole = matrix();
  const CheckpointFixture fixture(folder / "step-00000001", whole,
                                  grid({0, 333, kRows}, {0, 502, kColumns}), false);
  SavedCheckpoint saved(fixture.folder());
  const Range range{1000, 3'000'000};
  const at::Tensor elements = at::empty({range.size()}, at::kFloat);
  saved.read({{CheckpointFixture::kPath,
               {kRows, kColumns},
               boxes_of_range(whole_box({kRows, kColumns}), range),
               elements}});
  BOOST_CHECK(at::equal(elements, whole.view({-1}).narrow(0, range.begin, range.size())));
}

BOOST_AUTO_TEST_CASE(mappings_that_do_not_make_the_tensor_are_refused) {
  auto boxes = grid({0, 333, kRows}, {0, 502, kColumns});
  boxes.pop_back();
  refuse(boxes, "only in part");
  boxes = grid({0, 333, kRows}, {0, 502, kColumns});
  boxes[3].column -= 1;
  refuse(boxes, "overlap");
  boxes[3].column += 1;
  boxes[3].begin = 333 * 502 + 1;  // one element too far
  refuse(boxes, "elements, where index.h5 leads to");
}
