// The adjoint test: for a linear map A over all ranks, Σ <A x, y> = Σ <x, A' y>.
#include "archon/parallel/collectives.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <functional>

#include "support/tensors.hpp"
#include "support/world.hpp"

namespace differentiable = archon::differentiable;
using archon::Communicator;
using archon::test::leaf;
using archon::test::noise;
using archon::test::world_group;
using Rows = std::vector<int64_t>;

namespace {

double scalar_product(const at::Tensor& a, const at::Tensor& b) {
  return (a * b).sum().item<double>();
}

void check_adjoint(const Communicator& comm, const at::Tensor& input,
                   const std::function<at::Tensor(const at::Tensor&)>& map) {
  const at::Tensor x = leaf(input);
  const at::Tensor y = map(x);
  const at::Tensor probe = noise(y.sizes().vec(), 77 + comm.rank());
  y.backward(probe);
  const at::Tensor grad = x.grad().defined() ? x.grad() : at::zeros_like(input);
  const double forward = comm.all_reduce(scalar_product(y.detach(), probe));
  const double backward = comm.all_reduce(scalar_product(input, grad));
  BOOST_CHECK_SMALL(forward - backward, 1e-12 * (1 + std::abs(forward)));
}

// Rows per rank, some of them none.
Rows uneven_rows(int size) {
  Rows rows;
  for (int rank = 0; rank < size; ++rank) rows.push_back(rank == 1 ? 0 : 2 + rank);
  return rows;
}

int64_t total(const Rows& rows) {
  int64_t sum = 0;
  for (const int64_t count : rows) sum += count;
  return sum;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(collectives)

BOOST_AUTO_TEST_CASE(all_gather) {
  const Communicator comm = world_group();
  const auto map = [&](const Rows& rows) {
    return [&comm, rows](const at::Tensor& x) { return differentiable::all_gather(x, comm, rows); };
  };
  check_adjoint(comm, noise({3, 2}, comm.rank()), map({}));
  const Rows rows = uneven_rows(comm.size());
  check_adjoint(comm, noise({rows[comm.rank()], 2}, comm.rank()), map(rows));
  std::vector<at::Tensor> inputs;
  for (int rank = 0; rank < comm.size(); ++rank) inputs.push_back(noise({rows[rank], 2}, rank));
  BOOST_TEST(map(rows)(inputs[comm.rank()]).equal(at::cat(inputs)));
}

BOOST_AUTO_TEST_CASE(reduce_scatter) {
  const Communicator comm = world_group();
  const auto map = [&](const Rows& rows) {
    return [&comm, rows](const at::Tensor& x) {
      return differentiable::reduce_scatter(x, comm, rows);
    };
  };
  check_adjoint(comm, noise({3 * comm.size(), 2}, comm.rank()), map({}));
  const Rows rows = uneven_rows(comm.size());
  check_adjoint(comm, noise({total(rows), 2}, comm.rank()), map(rows));
  at::Tensor sum = noise({total(rows), 2}, 0);
  for (int rank = 1; rank < comm.size(); ++rank) sum = sum + noise({total(rows), 2}, rank);
  const int64_t begin = total(Rows(rows.begin(), rows.begin() + comm.rank()));
  ARCHON_CHECK_NEAR(map(rows)(noise({total(rows), 2}, comm.rank())),
                    sum.narrow(0, begin, rows[comm.rank()]), 1e-14);
}

BOOST_AUTO_TEST_CASE(all_to_all) {
  const Communicator comm = world_group();
  check_adjoint(comm, noise({2 * comm.size(), 3}, comm.rank()),
                [&](const at::Tensor& x) { return differentiable::all_to_all(x, comm); });
  Rows output_rows, input_rows;
  for (int peer = 0; peer < comm.size(); ++peer) {
    input_rows.push_back((comm.rank() + 2 * peer) % 3);
    output_rows.push_back((peer + 2 * comm.rank()) % 3);
  }
  check_adjoint(comm, noise({total(input_rows), 3}, comm.rank()), [&](const at::Tensor& x) {
    return differentiable::all_to_all(x, comm, output_rows, input_rows);
  });
}

BOOST_AUTO_TEST_CASE(all_reduce_and_broadcast) {
  const Communicator comm = world_group();
  check_adjoint(comm, noise({4, 2}, comm.rank()),
                [&](const at::Tensor& x) { return differentiable::all_reduce(x, comm); });
  for (int root = 0; root < comm.size(); ++root) {
    const auto map = [&](const at::Tensor& x) { return differentiable::broadcast(x, root, comm); };
    check_adjoint(comm, noise({4, 2}, comm.rank()), map);
    BOOST_TEST(map(noise({4, 2}, comm.rank())).equal(noise({4, 2}, root)));
  }
}

BOOST_AUTO_TEST_CASE(inputs_need_not_be_contiguous) {
  const Communicator comm = world_group();
  check_adjoint(comm, noise({2, 3}, comm.rank()), [&](const at::Tensor& x) {
    return differentiable::all_gather(x.t(), comm).t().mul(2);
  });
}

BOOST_AUTO_TEST_CASE(one_rank_gets_its_own_tensor_back) {
  const Communicator self = Communicator::self();
  const at::Tensor x = noise({2, 2}, 0);
  BOOST_TEST(differentiable::all_gather(x, self).is_same(x));
  BOOST_TEST(differentiable::reduce_scatter(x, self).is_same(x));
  BOOST_TEST(differentiable::all_to_all(x, self).is_same(x));
  BOOST_TEST(differentiable::all_reduce(x, self).is_same(x));
  BOOST_TEST(differentiable::broadcast(x, 0, self).is_same(x));
}

BOOST_AUTO_TEST_SUITE_END()
