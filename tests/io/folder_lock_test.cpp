// One process at a time writes into a folder.
#include "archon/io/folder_lock.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <utility>

#include "archon/base/error.hpp"
#include "support/temporary_folder.hpp"

namespace archon {
namespace {

using test::mentions;
using test::TemporaryFolder;

// flock's locks belong to the open file, so that one process can hold only one, too.
BOOST_AUTO_TEST_CASE(a_locked_folder_is_refused_until_it_is_free) {
  const TemporaryFolder folder;
  FolderLock lock(folder.path());
  const FolderLock moved = std::move(lock);
  BOOST_CHECK_EXCEPTION(FolderLock(folder.path()), InputError,
                        mentions("the folder " + folder.path() + " is in use",
                                 fmt::format("process {}", ::getpid())));
}

BOOST_AUTO_TEST_CASE(a_lock_ends_with_its_object) {
  const TemporaryFolder folder;
  { const FolderLock lock(folder.path()); }
  FolderLock again(folder.path());
  again = FolderLock();
  BOOST_CHECK_NO_THROW(FolderLock(folder.path()));
}

}  // namespace
}  // namespace archon
