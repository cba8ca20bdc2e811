#include "archon/io/new_hdf5_file.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "archon/base/error.hpp"
#include "archon/io/files.hpp"

namespace archon::h5 {
namespace fs = std::filesystem;
namespace {

/// What a link leads to is replaced, not the link.
std::string behind_links(const std::string& path) {
  std::error_code error;
  if (!fs::is_symlink(path, error)) return path;
  const fs::path real = fs::weakly_canonical(path, error);
  return error ? path : real.string();
}

}  // namespace

// The process's number keeps it apart from what others write, and from a file of the user's.
NewFile::NewFile(const std::string& path)
    : path_(behind_links(path)), temporary_(fmt::format("{}.{}.tmp", path_, ::getpid())) {
  validate_new_file(path_);
}

NewFile::NewFile(const std::string& path, const std::string& schema, int schema_version)
    : NewFile(path) {
  try {
    file_ = File::create(temporary_, schema, schema_version);
  } catch (const RuntimeFailure& failure) {
    throw InputError(fmt::format("cannot write {}: {}; name a file in a folder you may write to",
                                 path_, failure.what()));
  }
}

NewFile::NewFile(const std::string& path, const std::string& source) : NewFile(path) {
  std::error_code error;
  fs::copy_file(source, temporary_, fs::copy_options::overwrite_existing, error);
  ARCHON_ENSURE(!error, "cannot copy {} to {}: {}", source, temporary_, error.message());
  fs::permissions(temporary_, fs::perms::owner_write, fs::perm_options::add, error);
  file_ = File::edit(temporary_);
}

NewFile NewFile::copy_of(const std::string& source, const std::string& path) {
  return {path, source};
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
