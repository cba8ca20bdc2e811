// Every collective against what its definition says, computed from all ranks' inputs, which each
// rank can make.
#include "archon/comm/communicator.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <limits>

#include "archon/base/error.hpp"
#include "support/world.hpp"

using archon::Communicator;
using archon::ReduceOp;
using archon::RuntimeFailure;
using archon::Work;
using archon::test::device;
using archon::test::world_group;
using Rows = std::vector<int64_t>;

namespace {

constexpr at::ScalarType kNumbers[] = {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf,
                                       at::kLong,  at::kInt,    at::kByte};
constexpr at::ScalarType kAll[] = {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf,
                                   at::kLong,  at::kInt,    at::kByte,     at::kBool};

// Below and above the size from which all_reduce works in blocks; evenly cut by 2, 4, 8 and not.
const std::vector<Rows> kShapes = {{}, {0}, {7}, {2, 3}, {8192}, {5003}};

// Small numbers, exact in every type, other ones on every rank.
at::Tensor numbers(int rank, Rows shape, at::ScalarType dtype) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return at::arange(count, at::kLong).mul(3).add(7 * rank).remainder(5).view(shape).to(dtype).to(device());
}

std::vector<at::Tensor> all_numbers(int size, const Rows& shape, at::ScalarType dtype) {
  std::vector<at::Tensor> inputs;
  for (int rank = 0; rank < size; ++rank) inputs.push_back(numbers(rank, shape, dtype));
  return inputs;
}

at::Tensor reduced(const std::vector<at::Tensor>& inputs, ReduceOp op) {
  const at::Tensor all = at::stack(inputs).to(at::kDouble);
  switch (op) {
    case ReduceOp::sum:
      return all.sum(0).to(inputs[0].scalar_type());
    case ReduceOp::max:
      return all.amax(0).to(inputs[0].scalar_type());
    case ReduceOp::min:
      return all.amin(0).to(inputs[0].scalar_type());
  }
  return {};
}

at::TensorOptions of(at::ScalarType dtype) { return at::dtype(dtype).device(device()); }

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() &&
         (a.numel() == 0 ||
          std::memcmp(a.cpu().const_data_ptr(), b.cpu().const_data_ptr(), a.nbytes()) == 0);
}

void check_same(const at::Tensor& got, const at::Tensor& want) {
  BOOST_CHECK_MESSAGE(same_bits(got, want.contiguous()),
                      c10::toString(got.scalar_type()) << " of " << got.numel() << " elements");
}

// Rows of a rank's block: some are empty.
int64_t uneven(int rank) { return (2 * rank) % 5; }
int64_t uneven(int from, int to) { return (from + 2 * to) % 3; }
Rows uneven_rows(int size) {
  Rows rows;
  for (int rank = 0; rank < size; ++rank) rows.push_back(uneven(rank));
  return rows;
}

// Each collective once, synchronous or not; the results are checked after all of them.
void check_all_reduce(const Communicator& comm, at::ScalarType dtype, const Rows& shape,
                      bool async) {
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
    at::Tensor tensor = numbers(comm.rank(), shape, dtype);
    if (async)
      comm.all_reduce_async(tensor, op).wait();
    else
      comm.all_reduce(tensor, op);
    check_same(tensor, reduced(all_numbers(comm.size(), shape, dtype), op));
  }
}

void check_all_gather(const Communicator& comm, at::ScalarType dtype, const Rows& rows,
                      bool async) {
  const auto rows_of = [&](int rank) { return rows.empty() ? 3 : rows[rank]; };
  std::vector<at::Tensor> inputs;
  for (int rank = 0; rank < comm.size(); ++rank)
    inputs.push_back(numbers(rank, {rows_of(rank), 4}, dtype));
  const at::Tensor want = at::cat(inputs), got = at::empty_like(want);
  const auto gather = [&](const at::Tensor& input) {
    if (async)
      comm.all_gather_async(got, input, rows).wait();
    else
      comm.all_gather(got, input, rows);
    check_same(got, want);
  };
  gather(inputs[comm.rank()]);

  int64_t begin = 0;
  for (int rank = 0; rank < comm.rank(); ++rank) begin += rows_of(rank);
  const at::Tensor own = got.zero_().narrow(0, begin, rows_of(comm.rank()));
  own.copy_(inputs[comm.rank()]);
  gather(own);
}

void check_reduce_scatter(const Communicator& comm, at::ScalarType dtype, const Rows& rows,
                          bool async) {
  int64_t begin = 0, total = 0;
  for (int rank = 0; rank < comm.size(); ++rank) {
    if (rank == comm.rank()) begin = total;
    total += rows.empty() ? 3 : rows[rank];
  }
  const int64_t mine = rows.empty() ? 3 : rows[comm.rank()];
  const auto inputs = all_numbers(comm.size(), {total, 4}, dtype);
  const at::Tensor got = at::empty({mine, 4}, of(dtype));
  if (async)
    comm.reduce_scatter_async(got, inputs[comm.rank()], rows).wait();
  else
    comm.reduce_scatter(got, inputs[comm.rank()], rows);
  check_same(got, reduced(inputs, ReduceOp::sum).narrow(0, begin, mine));
}

void check_all_to_all(const Communicator& comm, at::ScalarType dtype, bool even, bool async) {
  const auto rows_of = [&](int from, int to) { return even ? 2 : uneven(from, to); };
  // Block (from, to) is the same on both sides and differs from every other.
  const auto block = [&](int from, int to) {
    return numbers(from * comm.size() + to, {rows_of(from, to), 3}, dtype);
  };
  std::vector<at::Tensor> sent, received;
  Rows input_rows, output_rows;
  for (int peer = 0; peer < comm.size(); ++peer) {
    sent.push_back(block(comm.rank(), peer));
    received.push_back(block(peer, comm.rank()));
    input_rows.push_back(sent.back().size(0));
    output_rows.push_back(received.back().size(0));
  }
  if (even) input_rows = output_rows = {};
  const at::Tensor want = at::cat(received), got = at::empty_like(want);
  if (async)
    comm.all_to_all_async(got, at::cat(sent), output_rows, input_rows).wait();
  else
    comm.all_to_all(got, at::cat(sent), output_rows, input_rows);
  check_same(got, want);
  if (!even || async) return;
  const at::Tensor others = want.clone();
  others.narrow(0, comm.rank() * 2, 2).zero_();  // stays as it is
  got.zero_();
  comm.exchange_others(got, at::cat(sent));
  check_same(got, others);
}

void check_broadcast(const Communicator& comm, at::ScalarType dtype, bool async) {
  for (int root = 0; root < comm.size(); ++root) {
    at::Tensor tensor = numbers(comm.rank(), {2, 5}, dtype);
    if (async)
      comm.broadcast_async(tensor, root).wait();
    else
      comm.broadcast(tensor, root);
    check_same(tensor, numbers(root, {2, 5}, dtype));
  }
}

void check_every_collective(const Communicator& comm, at::ScalarType dtype, bool async,
                            const std::vector<Rows>& all_reduce_shapes) {
  const Rows some_empty = uneven_rows(comm.size());
  check_all_gather(comm, dtype, {}, async);
  check_all_gather(comm, dtype, some_empty, async);
  check_all_to_all(comm, dtype, true, async);
  check_all_to_all(comm, dtype, false, async);
  check_broadcast(comm, dtype, async);
  if (dtype == at::kBool) return;
  check_reduce_scatter(comm, dtype, {}, async);
  check_reduce_scatter(comm, dtype, some_empty, async);
  for (const Rows& shape : all_reduce_shapes) check_all_reduce(comm, dtype, shape, async);
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(communicator, archon::test::BackendRules)

BOOST_AUTO_TEST_CASE(knows_its_group) {
  const Communicator comm = world_group();
  int rank = -1, size = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  BOOST_TEST(comm.rank() == rank);
  BOOST_TEST(comm.size() == size);
  BOOST_TEST(comm.name() == "world");
}

BOOST_AUTO_TEST_CASE(every_collective_of_every_type) {
  const Communicator comm = world_group();
  for (const at::ScalarType dtype : kAll) check_every_collective(comm, dtype, false, kShapes);
}

BOOST_AUTO_TEST_CASE(every_asynchronous_collective_of_every_type) {
  const Communicator comm = world_group();
  for (const at::ScalarType dtype : kAll) check_every_collective(comm, dtype, true, kShapes);
}

BOOST_AUTO_TEST_CASE(counts_above_the_largest_are_split) {
  Communicator comm = world_group();
  for (const int64_t max_count : {3, 50}) {
    comm.set_max_count(max_count);
    for (const bool async : {false, true}) {
      check_every_collective(comm, at::kFloat, async, {{7}, {1200}});
      check_every_collective(comm, at::kBFloat16, async, {{7}, {2051}});
    }
  }
}

BOOST_AUTO_TEST_CASE(many_operations_may_be_under_way) {
  const Communicator comm = world_group();
  const int size = comm.size(), rank = comm.rank();
  at::Tensor small = numbers(rank, {5}, at::kFloat), large = numbers(rank, {6001}, at::kFloat);
  at::Tensor from_last = numbers(rank, {9}, at::kLong);
  const at::Tensor gathered = at::empty({2 * size, 3}, of(at::kInt));
  const at::Tensor scattered = at::empty({4}, of(at::kDouble));
  const at::Tensor exchanged = at::empty({size, 2}, of(at::kHalf));
  std::vector<Work> works;
  works.push_back(comm.all_reduce_async(large));
  works.push_back(comm.all_gather_async(gathered, numbers(rank, {2, 3}, at::kInt)));
  works.push_back(comm.all_reduce_async(small, ReduceOp::max));
  works.push_back(comm.reduce_scatter_async(scattered, numbers(rank, {4 * size}, at::kDouble)));
  works.push_back(comm.barrier_async());
  works.push_back(
      comm.all_to_all_async(exchanged, at::full({size, 2}, rank, of(at::kHalf))));
  works.push_back(comm.broadcast_async(from_last, size - 1));
  for (Work& work : works) {
    BOOST_TEST(work.pending() == (size > 1));
    work.wait();
    work.wait();  // does nothing
    BOOST_TEST(!work.pending());
  }
  check_same(large, reduced(all_numbers(size, {6001}, at::kFloat), ReduceOp::sum));
  check_same(small, reduced(all_numbers(size, {5}, at::kFloat), ReduceOp::max));
  check_same(gathered, at::cat(all_numbers(size, {2, 3}, at::kInt)));
  check_same(
      scattered,
      reduced(all_numbers(size, {4 * size}, at::kDouble), ReduceOp::sum).narrow(0, 4 * rank, 4));
  check_same(exchanged, at::arange(size).to(at::kHalf).view({-1, 1}).expand({size, 2}));
  check_same(from_last, numbers(size - 1, {9}, at::kLong));
}

BOOST_AUTO_TEST_CASE(a_dropped_or_replaced_work_is_waited_for) {
  const Communicator comm = world_group();
  at::Tensor first = at::ones({3}, of(at::kFloat)), second = first.clone(), third = first.clone();
  {
    Work work = comm.all_reduce_async(first);
    work = comm.all_reduce_async(second);
    BOOST_TEST(first[0].item<int>() == comm.size());
    const Work moved = std::move(work);
    BOOST_TEST(!work.pending());
    BOOST_TEST(moved.pending() == (comm.size() > 1));
  }
  BOOST_TEST(second[0].item<int>() == comm.size());
  { const Work dropped = comm.all_reduce_async(third); }
  BOOST_TEST(third[0].item<int>() == comm.size());
}

BOOST_AUTO_TEST_CASE(an_asynchronous_input_may_go_out_of_scope) {
  const Communicator comm = world_group();
  const at::Tensor gathered = at::empty({1000 * comm.size()}, of(at::kFloat));
  Work work;
  {
    const at::Tensor input = at::full({1000}, comm.rank(), of(at::kFloat));
    work = comm.all_gather_async(gathered, input);
  }
  const at::Tensor reuse = at::full({1000}, -1.0, of(at::kFloat));  // would get the freed memory
  work.wait();
  for (int rank = 0; rank < comm.size(); ++rank)
    BOOST_TEST(gathered.narrow(0, 1000 * rank, 1000).eq(rank).all().item<bool>());
}

// 256 + 1 is 256 in bfloat16, and so is every further sum that rounds on the way.
BOOST_AUTO_TEST_CASE(half_precision_sums_round_once) {
  const Communicator comm = world_group();
  for (const auto& [dtype, large] : {std::pair{at::kBFloat16, 256.0}, {at::kHalf, 2048.0}})
    for (const int64_t count : {5, 5003}) {
      const double mine = comm.rank() == 0 ? large : 1.0;
      const at::Tensor want = at::full({count}, large + comm.size() - 1).to(of(dtype));
      at::Tensor reduced = at::full({count}, mine, of(dtype));
      comm.all_reduce(reduced);
      check_same(reduced, want);
      const at::Tensor scattered = at::empty({count}, of(dtype));
      comm.reduce_scatter(scattered, at::full({count * comm.size()}, mine, of(dtype)));
      check_same(scattered, want);
      if (comm.size() > 2) BOOST_TEST(want[0].item<double>() > large);
    }
}

BOOST_AUTO_TEST_CASE(the_same_bits_everywhere_and_every_time) {
  const Communicator comm = world_group();
  for (const int64_t count : {11, 5003}) {
    // Numbers of very different size: any other order of summation gives other bits.
    const at::Tensor mine =
        at::arange(count).add(1 + 37 * comm.rank()).to(at::kFloat).sin().mul(1e4).exp2().fmod(1e3).to(device());
    at::Tensor first = mine.clone();
    comm.all_reduce(first);
    const at::Tensor everyone = at::empty({comm.size(), count}, of(at::kFloat));
    comm.all_gather(everyone, first.view({1, count}));
    for (int rank = 0; rank < comm.size(); ++rank) check_same(everyone[rank].clone(), first);
    for (int repeat = 0; repeat < 5; ++repeat) {
      at::Tensor again = mine.clone();
      if (repeat % 2 == 0)
        comm.all_reduce(again);
      else
        comm.all_reduce_async(again).wait();
      check_same(again, first);
    }
  }
}

BOOST_AUTO_TEST_CASE(scalars_and_strings) {
  const Communicator comm = world_group();
  const int n = comm.size();
  BOOST_TEST(comm.all_reduce(1.5 * comm.rank()) == 1.5 * n * (n - 1) / 2);
  BOOST_TEST(comm.all_reduce(int64_t{comm.rank()}, ReduceOp::max) == n - 1);
  BOOST_TEST(comm.all_reduce((int64_t{1} << 60) + comm.rank(), ReduceOp::min) == int64_t{1} << 60);
  for (int root = 0; root < n; ++root) {
    BOOST_TEST(comm.broadcast("rank " + std::to_string(comm.rank()), root) ==
               "rank " + std::to_string(root));
    BOOST_TEST(comm.broadcast(comm.rank() == root ? "" : "other", root) == "");
  }
  comm.barrier();
}

BOOST_AUTO_TEST_CASE(one_rank_communicates_nothing) {
  const Communicator comm = Communicator::self();
  BOOST_TEST(comm.size() == 1);
  BOOST_TEST(comm.rank() == 0);
  at::Tensor x = at::full({3}, 2.5);
  const void* data = x.data_ptr();
  const auto version = x._version();
  comm.all_reduce(x);
  comm.broadcast(x, 0);
  comm.all_gather(x, x);
  comm.barrier();
  BOOST_TEST(x.data_ptr() == data);
  BOOST_TEST(x._version() == version);  // not written
  BOOST_TEST(!comm.all_reduce_async(x).pending());
  const at::Tensor y = at::zeros({3});
  comm.all_to_all(y, x);
  check_same(y, x);
  const at::Tensor z = at::zeros({3});
  comm.reduce_scatter(z, x);
  check_same(z, x);
  BOOST_TEST(comm.all_reduce(4.0) == 4.0);
  BOOST_TEST(comm.broadcast("text", 0) == "text");
}

// All of these throw on every rank before anything is sent.
BOOST_AUTO_TEST_CASE(wrong_arguments_are_refused) {
  const Communicator comm = world_group();
  const int n = comm.size();
  const at::Tensor strided = at::zeros({4, 2 * n}).t();
  BOOST_CHECK_THROW(comm.all_reduce(strided), RuntimeFailure);
  BOOST_CHECK_THROW(comm.all_reduce(at::Tensor()), RuntimeFailure);
  BOOST_CHECK_THROW(comm.broadcast(strided, 0), RuntimeFailure);
  BOOST_CHECK_THROW(comm.all_gather(at::zeros({2 * n * n, 4}), strided), RuntimeFailure);
  BOOST_CHECK_THROW(comm.reduce_scatter(at::zeros({2, 4}), strided), RuntimeFailure);
  BOOST_CHECK_THROW(comm.all_to_all(at::zeros({2 * n, 4}), strided), RuntimeFailure);
  BOOST_CHECK_THROW(comm.all_to_all(strided, at::zeros({2 * n, 4})), RuntimeFailure);

  const at::Tensor mine = at::zeros({2});
  BOOST_CHECK_THROW(comm.all_gather(at::zeros({2 * n + n}), mine), RuntimeFailure);
  BOOST_CHECK_THROW(comm.all_gather(at::zeros({2 * n}, at::kDouble), mine), RuntimeFailure);
  BOOST_CHECK_THROW(comm.all_gather(at::zeros({2 * n}), mine, Rows(n + 1, 2)), RuntimeFailure);
  BOOST_CHECK_THROW(comm.all_gather(at::zeros({2 * n}), mine, Rows(n, 3)), RuntimeFailure);
  BOOST_CHECK_THROW(comm.all_gather(at::zeros({}), at::zeros({})), RuntimeFailure);
  BOOST_CHECK_THROW(comm.reduce_scatter(at::zeros({3}), at::zeros({2 * n})), RuntimeFailure);
  BOOST_CHECK_THROW(comm.reduce_scatter(at::zeros({2}, at::kInt), at::zeros({2 * n})),
                    RuntimeFailure);
  BOOST_CHECK_THROW(comm.all_to_all(at::zeros({2 * n}), at::zeros({2 * n}), Rows(n, 2)),
                    RuntimeFailure);
  BOOST_CHECK_THROW(comm.all_to_all(at::zeros({2 * n}, at::kInt), at::zeros({2 * n})),
                    RuntimeFailure);
  if (n == 1) return;
  BOOST_CHECK_THROW(comm.all_to_all(at::zeros({2 * n + 1}), at::zeros({2 * n + 1})),
                    RuntimeFailure);
  BOOST_CHECK_THROW(comm.reduce_scatter(at::zeros({2}), at::zeros({2 * n + 1})), RuntimeFailure);
}

BOOST_AUTO_TEST_SUITE_END()
