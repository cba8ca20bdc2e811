#include "archon/io/new_hdf5_file.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "archon/base/error.hpp"
#include "archon/io/files.hpp"

namespace archon::h5 {

NewFile::NewFile(const std::string& path, const std::string& schema, int schema_version)
    : path_(path), temporary_(path + ".tmp") {
  validate_new_file(path_);
  try {
    file_ = File::create(temporary_, schema, schema_version);
  } catch (const RuntimeFailure& failure) {
    throw InputError(fmt::format("cannot write {}: {}; name a file in a folder you may write to",
                                 path_, failure.what()));
  }
}

NewFile::~NewFile() {
  file_.reset();
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void NewFile::publish() {
  file_->flush();
  file_.reset();
  sync_path(temporary_);
  ARCHON_ENSURE(std::rename(temporary_.c_str(), path_.c_str()) == 0, "cannot rename {} to {}: {}",
                temporary_, path_, std::strerror(errno));
  temporary_.clear();
  sync_path(parent_folder(path_));
}

}  // namespace archon::h5
