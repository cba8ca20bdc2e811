#include "archon/data/gather.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>

#include <boost/test/unit_test.hpp>

#include "archon/base/error.hpp"
#include "archon/data/batch.hpp"
#include "archon/mesh/mesh.hpp"

namespace {

struct WithMesh {
  int world_size = [] {
    int size = 0;
    ARCHON_MPI(MPI_Comm_size(MPI_COMM_WORLD, &size));
    return size;
  }();
  archon::Mesh mesh{{1, world_size, 1}, MPI_COMM_WORLD};
  const archon::Communicator& cp = mesh.cp();
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(gather, WithMesh)

BOOST_AUTO_TEST_CASE(slices_of_all_ranks_make_the_whole) {
  const int64_t rows = 3 * cp.size();
  const at::Tensor whole = at::arange(rows * 5, at::kFloat).reshape({rows, 5});
  const at::Tensor slice = whole.narrow(0, cp.rank() * 3, 3);
  BOOST_TEST(at::equal(archon::ulysses_gather_output(slice, cp), whole));
  BOOST_TEST(at::equal(archon::ulysses_gather_output(slice.to(at::kBFloat16), cp),
                       whole.to(at::kBFloat16)));
}

BOOST_AUTO_TEST_CASE(strided_and_differentiable_slices_are_gathered) {
  const int64_t rows = 2 * cp.size();
  const at::Tensor whole = at::arange(rows * 4, at::kFloat).reshape({4, rows}).t();
  const at::Tensor slice = whole.narrow(0, cp.rank() * 2, 2).detach().set_requires_grad(true);
  BOOST_REQUIRE(!slice.is_contiguous());
  const at::Tensor gathered = archon::ulysses_gather_output(slice, cp);
  BOOST_TEST(at::equal(gathered, whole));
  BOOST_TEST(!gathered.requires_grad());
}

BOOST_AUTO_TEST_CASE(undoes_the_slicing_of_inputs) {
  const at::Tensor tokens = at::arange(1, 12, at::kLong);
  const archon::PackedBatch batch =
      archon::pack({{0, tokens, at::zeros({11}, at::kBool), {}}}, 2 * cp.size());
  const archon::PackedBatch mine = archon::ulysses_slice_inputs(batch, cp.rank(), cp.size());
  BOOST_TEST(at::equal(archon::ulysses_gather_output(mine.tokens, cp), batch.tokens));
  BOOST_TEST(at::equal(archon::ulysses_gather_output(mine.labels, cp), batch.labels));
  BOOST_TEST(at::equal(archon::ulysses_gather_output(mine.target_mask, cp), batch.target_mask));
}

BOOST_AUTO_TEST_CASE(a_scalar_is_refused) {
  BOOST_CHECK_THROW(archon::ulysses_gather_output(at::zeros({}), cp), archon::RuntimeFailure);
}

BOOST_AUTO_TEST_SUITE_END()
