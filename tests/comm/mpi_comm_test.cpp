// Who owns an MPI communicator, and when it is freed: MPI itself tells, through an attribute's
// delete callback.
#include <boost/test/unit_test.hpp>
#include <utility>

#include "archon/base/error.hpp"
#include "archon/comm/mpi.hpp"

using archon::MpiComm;

namespace {

int count_freed(MPI_Comm, int, void*, void* counter) {
  ++*static_cast<int*>(counter);
  return MPI_SUCCESS;
}

/// Makes communicators and counts how many of them were freed.
class Counted {
 public:
  Counted() {
    ARCHON_MPI(MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, &count_freed, &key_, &freed_));
  }
  ~Counted() { MPI_Comm_free_keyval(&key_); }
  MpiComm make() {
    MPI_Comm comm = MPI_COMM_NULL;
    ARCHON_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
    ARCHON_MPI(MPI_Comm_set_attr(comm, key_, this));
    return MpiComm(comm);
  }
  int freed() const { return freed_; }

 private:
  int key_ = MPI_KEYVAL_INVALID;
  int freed_ = 0;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(mpi_comm)

BOOST_AUTO_TEST_CASE(is_freed_once_at_the_end_of_its_scope) {
  Counted counted;
  { const MpiComm comm = counted.make(); }
  BOOST_TEST(counted.freed() == 1);
}

BOOST_AUTO_TEST_CASE(move_assignment_frees_the_old_handle) {
  Counted counted;
  {
    MpiComm a = counted.make(), b = counted.make();
    const MPI_Comm handle = b.get();
    a = std::move(b);
    BOOST_TEST(counted.freed() == 1);
    BOOST_TEST((a.get() == handle));
    BOOST_TEST((b.get() == MPI_COMM_NULL));
    MpiComm& same = a;
    a = std::move(same);
    BOOST_TEST(counted.freed() == 1);
  }
  BOOST_TEST(counted.freed() == 2);
}

BOOST_AUTO_TEST_CASE(move_construction_hands_over) {
  Counted counted;
  {
    MpiComm a = counted.make();
    const MpiComm b = std::move(a);
    BOOST_TEST((a.get() == MPI_COMM_NULL));
    BOOST_TEST(counted.freed() == 0);
  }
  BOOST_TEST(counted.freed() == 1);
}

BOOST_AUTO_TEST_CASE(an_mpi_error_names_call_and_reason) {
  int size = 0;
  BOOST_CHECK_EXCEPTION(ARCHON_MPI(MPI_Comm_size(MPI_COMM_NULL, &size)), archon::RuntimeFailure,
                        [](const archon::RuntimeFailure& error) {
                          return std::string(error.what()).find("MPI_Comm_size") !=
                                 std::string::npos;
                        });
}

BOOST_AUTO_TEST_SUITE_END()
