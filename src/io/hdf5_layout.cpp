#include "archon/io/hdf5_layout.hpp"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>

#include "archon/base/error.hpp"
#include "archon/io/files.hpp"
#include "hdf5_check.hpp"
#include "hdf5_objects.hpp"
#include "hdf5_types.hpp"

namespace archon::h5 {
namespace fs = std::filesystem;
namespace {

constexpr hsize_t kStructureBlock = 64 * 1024;

/// HDF5 must open it by name, which a file of memfd_create does not have.
std::string memory_file_template() {
  std::error_code ignored;
  const bool shm = fs::is_directory("/dev/shm", ignored);
  return ((shm ? fs::path("/dev/shm") : fs::temp_directory_path()) / "archon-layout-XXXXXX");
}

/// Room is taken at the end of the file, in the order of the datasets; what HDF5 itself stores lies
/// together in few places.
Handle layout_access() {
  Handle access = access_properties();
  ARCHON_HDF5(RuntimeFailure, H5Pset_small_data_block_size(access.get(), 0), "file access list");
  ARCHON_HDF5(RuntimeFailure, H5Pset_meta_block_size(access.get(), kStructureBlock),
              "file access list");
  return access;
}

std::string read_all(int descriptor, int64_t offset, int64_t bytes) {
  std::string content(static_cast<std::size_t>(bytes), '\0');
  ARCHON_ENSURE(read_at(descriptor, content.data(), content.size(), offset) == bytes,
                "cannot read a file in memory: {}", std::strerror(errno));
  return content;
}

int64_t elements_of(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (const int64_t size : shape) elements *= size;
  return elements;
}

}  // namespace

FileLayout::FileLayout(const std::string& schema, int schema_version)
    : path_(memory_file_template()), descriptor_(::mkostemp(path_.data(), O_CLOEXEC)) {
  ARCHON_ENSURE(descriptor_ >= 0, "cannot make a file in memory at {}: {}", path_,
                std::strerror(errno));
  file_ = File::create(path_, schema, schema_version, layout_access());
  ::unlink(path_.c_str());  // it lives on while it is open
}

FileLayout::~FileLayout() {
  file_.reset();
  ::close(descriptor_);
}

void FileLayout::reserve(const std::string& dataset, const std::vector<int64_t>& shape,
                         at::ScalarType dtype) {
  const Handle properties = dataset_properties();
  ARCHON_HDF5(RuntimeFailure, H5Pset_alloc_time(properties.get(), H5D_ALLOC_TIME_EARLY), "room");
  ARCHON_HDF5(RuntimeFailure, H5Pset_fill_time(properties.get(), H5D_FILL_TIME_NEVER), "room");
  const Handle type = make_type(dtype), space = make_space(shape);
  const Handle id = create_dataset(file_->id(), file_->path(), dataset, type.get(), space.get(),
                                   properties.get());
  const haddr_t offset = H5Dget_offset(id.get());
  const int64_t end = reserved_.empty() ? 0 : reserved_.back().offset + reserved_.back().bytes;
  ARCHON_ENSURE(offset != HADDR_UNDEF && static_cast<int64_t>(offset) >= end,
                "HDF5 gave {} no room behind the dataset before it", dataset);
  reserved_.push_back({static_cast<int64_t>(offset),
                       elements_of(shape) * static_cast<int64_t>(c10::elementSize(dtype))});
}

FileImage FileLayout::finish() {
  file_->flush();
  file_.reset();
  struct stat status = {};
  ARCHON_ENSURE(::fstat(descriptor_, &status) == 0, "cannot read a file in memory: {}",
                std::strerror(errno));
  FileImage image;
  int64_t at = 0;
  const auto add_own = [&](int64_t end) {
    if (end > at) image.segments.push_back({end - at, -1, read_all(descriptor_, at, end - at)});
    at = end;
  };
  for (std::size_t i = 0; i < reserved_.size(); ++i) {
    add_own(reserved_[i].offset);
    image.segments.push_back({reserved_[i].bytes, static_cast<int64_t>(i)});
    at += reserved_[i].bytes;
  }
  add_own(status.st_size);
  return image;
}

void create_virtual(File& file, const std::string& dataset, const std::vector<int64_t>& shape,
                    const std::vector<VirtualSource>& sources) {
  const Handle properties = dataset_properties();
  const float nothing = std::numeric_limits<float>::quiet_NaN();
  ARCHON_HDF5(RuntimeFailure, H5Pset_fill_value(properties.get(), H5T_NATIVE_FLOAT, &nothing),
              "{}: fill value of {}", file.path(), dataset);
  const Handle space = make_space(shape);
  for (const VirtualSource& source : sources) {
    const Handle source_space = make_space({source.elements});
    select(source_space.get(), H5S_SELECT_SET, {{source.begin}, {elements_of(source.slab.count)}});
    select(space.get(), H5S_SELECT_SET, source.slab);
    ARCHON_HDF5(RuntimeFailure,
                H5Pset_virtual(properties.get(), space.get(), source.file.c_str(), dataset.c_str(),
                               source_space.get()),
                "{}: cannot show {} in {}", file.path(), source.file, dataset);
  }
  const Handle type = make_type(at::kFloat);
  create_dataset(file.id(), file.path(), dataset, type.get(), space.get(), properties.get());
}

}  // namespace archon::h5
