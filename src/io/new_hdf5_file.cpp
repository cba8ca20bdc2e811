#include "archon/io/new_hdf5_file.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "archon/base/error.hpp"
#include "archon/io/files.hpp"

namespace archon::h5 {
namespace {

namespace fs = std::filesystem;

void validate_place(const std::string& path) {
  std::error_code ignored;
  const std::string folder = parent_folder(path);
  ARCHON_VALIDATE(fs::is_directory(folder, ignored),
                  "cannot write {}: there is no folder {}; make it, or name another file", path,
                  folder);
  const fs::file_status there = fs::status(path, ignored);
  ARCHON_VALIDATE(!fs::exists(there) || fs::is_regular_file(there),
                  "cannot write {}: what has this name is no file; name another one", path);
  ARCHON_VALIDATE(::access(folder.c_str(), W_OK | X_OK) == 0,
                  "cannot write {}: {}; name a file in a folder you may write to", path,
                  std::strerror(errno));
}

}  // namespace

NewFile::NewFile(const std::string& path, const std::string& schema, int schema_version)
    : path_(path), temporary_(path + ".tmp") {
  validate_place(path_);
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
