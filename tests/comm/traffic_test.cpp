// What a rank sends, against the definition at Traffic.
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <boost/test/unit_test.hpp>
#include <functional>
#include <numeric>

#include "archon/comm/communicator.hpp"
#include "support/world.hpp"

using archon::Communicator;
using archon::Traffic;
using archon::Work;
using archon::test::world_group;
using Rows = std::vector<int64_t>;

namespace {

void check_sent(const Communicator& comm, const Traffic& want,
                const std::function<void()>& collective) {
  const Traffic before = comm.traffic();
  collective();
  const Traffic sent = comm.traffic() - before;
  BOOST_TEST(sent.bytes == want.bytes);
  BOOST_TEST(sent.messages == want.messages);
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(traffic, archon::test::BackendRules)

BOOST_AUTO_TEST_CASE(even_blocks) {
  const Communicator comm = world_group();
  const int64_t n = comm.size(), others = n - 1;
  const at::Tensor whole = at::zeros({5 * n, 3}), block = at::zeros({5, 3});
  const at::Tensor half = at::zeros({5 * n, 3}, at::kBFloat16);
  check_sent(comm, {60 * others, others}, [&] { comm.all_gather(whole, block); });
  check_sent(comm, {60 * others, others}, [&] { comm.reduce_scatter(block, whole); });
  check_sent(comm, {30 * others, others}, [&] { comm.all_to_all(at::empty_like(half), half); });
  check_sent(comm, {60 * others, others}, [&] {
    comm.exchange_others(at::zeros({5 * n, 3}), whole);
  });
  check_sent(comm, {}, [&] { comm.barrier(); });
}

BOOST_AUTO_TEST_CASE(uneven_blocks) {
  const Communicator comm = world_group();
  const int64_t n = comm.size(), me = comm.rank(), others = n - 1;
  Rows rows(n), to_each(n), from_each(n, me);
  std::iota(rows.begin(), rows.end(), 1);
  std::iota(to_each.begin(), to_each.end(), 0);
  const int64_t total = n * (n + 1) / 2, sum = n * (n - 1) / 2;
  const at::Tensor whole = at::zeros({total, 2}), mine = at::zeros({me + 1, 2});
  check_sent(comm, {8 * (me + 1) * others, others}, [&] { comm.all_gather(whole, mine, rows); });
  check_sent(comm, {8 * (total - me - 1), others}, [&] { comm.reduce_scatter(mine, whole, rows); });
  check_sent(comm, {8 * (sum - me), others}, [&] {
    comm.all_to_all(at::zeros({n * me, 2}), at::zeros({sum, 2}), from_each, to_each);
  });
}

BOOST_AUTO_TEST_CASE(all_reduce_sends_blocks_from_4_kib_on) {
  const Communicator comm = world_group();
  const int64_t n = comm.size(), others = n - 1;
  check_sent(comm, {4096 * others, others}, [&] { comm.all_reduce(at::zeros({1024})); });
  check_sent(comm, {8 * others, others}, [&] { comm.all_reduce(1.0); });
  const int64_t elements = 1025, own = elements / n + (comm.rank() < elements % n ? 1 : 0);
  check_sent(comm, {4 * (elements - own + own * others), 2 * others},
             [&] { comm.all_reduce(at::zeros({elements})); });
}

BOOST_AUTO_TEST_CASE(only_the_root_of_a_broadcast_sends) {
  const Communicator comm = world_group();
  const int64_t others = comm.size() - 1;
  const int root = comm.size() / 2;
  const Traffic want = comm.rank() == root ? Traffic{14 * others, others} : Traffic{};
  check_sent(comm, want, [&] { comm.broadcast(at::zeros({7}, at::kHalf), root); });
}

BOOST_AUTO_TEST_CASE(asynchronous_operations_count_when_they_start) {
  const Communicator comm = world_group();
  const int64_t n = comm.size(), others = n - 1;
  const at::Tensor whole = at::zeros({2 * n}), block = at::zeros({2});
  Work work;
  check_sent(comm, {8 * others, others}, [&] { work = comm.all_gather_async(whole, block); });
  check_sent(comm, {}, [&] { work.wait(); });
}

BOOST_AUTO_TEST_CASE(counts_above_the_limit_change_nothing) {
  Communicator comm = world_group();
  const int64_t n = comm.size(), others = n - 1;
  comm.set_max_count(3);
  check_sent(comm, {40 * others, others},
             [&] { comm.all_gather(at::zeros({10 * n}), at::zeros({10})); });
}

BOOST_AUTO_TEST_CASE(one_rank_sends_nothing) {
  const Communicator comm = Communicator::self();
  comm.all_reduce(at::zeros({5000}));
  comm.broadcast(at::zeros({5}), 0);
  BOOST_TEST((comm.traffic() == Traffic{}));
}

BOOST_AUTO_TEST_SUITE_END()
