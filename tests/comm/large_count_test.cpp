// Counts beyond what MPI's int holds. Needs about 11 GiB, so it is built on demand only
// (-DARCHON_LARGE_TESTS=ON); what it adds to communicator_test, which lowers the limit, is the
// arithmetic at the real one.
#include <ATen/ops/empty.h>

#include <boost/test/unit_test.hpp>
#include <cstdint>

#include "archon/comm/communicator.hpp"

using archon::Communicator;
using archon::MpiComm;

namespace {

constexpr int64_t kOverInt = (int64_t{1} << 31) + 12345;

Communicator world() {
  MPI_Comm comm = MPI_COMM_NULL;
  ARCHON_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
  return Communicator(MpiComm(comm), "world");
}

uint8_t pattern(int rank, int64_t index) {
  return static_cast<uint8_t>((index * 2654435761u + 97 * rank) >> 24);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_broadcast_of_more_than_2_to_the_31_elements) {
  const Communicator comm = world();
  at::Tensor data = at::empty({kOverInt}, at::kByte);
  auto* bytes = data.data_ptr<uint8_t>();
  for (int64_t i = 0; i < kOverInt; ++i) bytes[i] = comm.rank() == 0 ? pattern(0, i) : 0;
  comm.broadcast(data, 0);
  int64_t wrong = 0;
  for (int64_t i = 0; i < kOverInt; ++i) wrong += bytes[i] != pattern(0, i) ? 1 : 0;
  BOOST_CHECK_EQUAL(wrong, 0);
}

BOOST_AUTO_TEST_CASE(an_all_gather_of_more_than_2_to_the_31_elements) {
  const Communicator comm = world();
  const int64_t mine = kOverInt / comm.size() + 1;
  at::Tensor input = at::empty({mine}, at::kByte);
  at::Tensor output = at::empty({mine * comm.size()}, at::kByte);
  for (int64_t i = 0; i < mine; ++i) input.data_ptr<uint8_t>()[i] = pattern(comm.rank(), i);
  comm.all_gather(output, input);
  int64_t wrong = 0;
  const auto* bytes = output.const_data_ptr<uint8_t>();
  for (int64_t i = 0; i < output.numel(); ++i)
    wrong += bytes[i] != pattern(static_cast<int>(i / mine), i % mine) ? 1 : 0;
  BOOST_CHECK_EQUAL(wrong, 0);
}
