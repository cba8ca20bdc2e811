#include "archon/io/hdf5.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <numeric>

#include "archon/base/version.hpp"
#include "hdf5_check.hpp"
#include "hdf5_objects.hpp"
#include "hdf5_types.hpp"

namespace archon::h5 {
namespace {

constexpr int64_t kChunkBytes = 64 * 1024;
constexpr int64_t kMostRowsPerChunk = 1024;
constexpr std::size_t kMostNamesInMessages = 8;

std::string absolute(const std::string& path) { return path.starts_with('/') ? path : '/' + path; }

Handle open_file(const std::string& path, unsigned mode) {
  silence_error_printing();
  ARCHON_VALIDATE(::access(path.c_str(), R_OK) == 0, "cannot open {}: {}", path,
                  std::strerror(errno));
  ARCHON_VALIDATE(!std::filesystem::is_directory(path),
                  "cannot open {}: it is a folder, not an HDF5 file", path);
  const htri_t is_hdf5 = ARCHON_HDF5(InputError, H5Fis_hdf5(path.c_str()), "cannot open {}", path);
  ARCHON_VALIDATE(is_hdf5 > 0, "cannot open {}: it is not an HDF5 file", path);
  const Handle access = access_properties();
  return Handle(ARCHON_HDF5(InputError, H5Fopen(path.c_str(), mode, access.get()),
                            "cannot open {} as an HDF5 file", path));
}

bool exists(hid_t file, const std::string& file_path, const std::string& path) {
  std::size_t end = 0;
  while (end != std::string::npos) {
    end = path.find('/', end + 1);
    const std::string prefix = path.substr(0, end);
    if (ARCHON_HDF5(InputError, H5Lexists(file, prefix.c_str(), H5P_DEFAULT),
                    "{}: cannot look for {}", file_path, prefix) == 0)
      return false;
  }
  return ARCHON_HDF5(InputError, H5Oexists_by_name(file, path.c_str(), H5P_DEFAULT),
                     "{}: cannot look for {}", file_path, path) > 0;
}

std::vector<int64_t> extents(hid_t space) {
  if (H5Sget_simple_extent_type(space) == H5S_NULL) return {0};
  std::vector<hsize_t> dims(std::max(0, H5Sget_simple_extent_ndims(space)));
  H5Sget_simple_extent_dims(space, dims.data(), nullptr);
  return {dims.begin(), dims.end()};
}

/// Selects rows [begin, begin + block[0]) of a dataset.
void select_rows(hid_t space, int64_t begin, at::IntArrayRef block) {
  const std::vector<hsize_t> count(block.begin(), block.end());
  std::vector<hsize_t> start(block.size(), 0);
  start.front() = static_cast<hsize_t>(begin);
  ARCHON_HDF5(
      RuntimeFailure,
      H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr),
      "cannot select {} rows from row {}", count.front(), begin);
}

/// An open dataset with its description.
struct Dataset {
  Handle id, type, space;
  DatasetInfo info;
};

Dataset open_dataset(hid_t file, const std::string& file_path, const std::string& path) {
  Handle id(ARCHON_HDF5(InputError, H5Oopen(file, path.c_str(), H5P_DEFAULT), "{}: cannot open {}",
                        file_path, path));
  ARCHON_VALIDATE(H5Iget_type(id.get()) == H5I_DATASET, "{}: {} is a group, not a dataset",
                  file_path, path);
  Handle type(ARCHON_HDF5(InputError, H5Dget_type(id.get()), "{}: type of {}", file_path, path));
  Handle space(ARCHON_HDF5(InputError, H5Dget_space(id.get()), "{}: shape of {}", file_path, path));
  DatasetInfo info{path, extents(space.get()), scalar_type(type.get())};
  return {std::move(id), std::move(type), std::move(space), std::move(info)};
}

/// "/a, /b and 3 more", for messages.
std::string some_names(const std::vector<DatasetInfo>& datasets) {
  std::vector<std::string> names;
  for (const DatasetInfo& info : datasets) names.push_back(info.path);
  if (names.empty()) return "none at all";
  const std::size_t more = names.size() - std::min(names.size(), kMostNamesInMessages);
  names.resize(names.size() - more);
  return fmt::format("{}{}", fmt::join(names, ", "), more ? fmt::format(" and {} more", more) : "");
}

Dataset find_dataset(const File& file, hid_t id, const std::string& name) {
  const std::string path = absolute(name);
  if (!exists(id, file.path(), path))
    throw_input_error(fmt::format("{} has no dataset {}; it has {}", file.path(), path,
                                  some_names(file.datasets())));
  return open_dataset(id, file.path(), path);
}

/// Lets no number be clipped to the range of the type it is read as.
H5T_conv_ret_t refuse_clipping(H5T_conv_except_t kind, hid_t, hid_t, void*, void*, void* refused) {
  if (kind != H5T_CONV_EXCEPT_RANGE_HI && kind != H5T_CONV_EXCEPT_RANGE_LOW)
    return H5T_CONV_UNHANDLED;
  *static_cast<bool*>(refused) = true;
  return H5T_CONV_ABORT;
}

/// The type HDF5 is asked for; LibTorch converts the rest of the way.
at::ScalarType transfer_type(at::ScalarType stored, at::ScalarType wanted) {
  if (stored == wanted || stored == at::kBool || wanted == at::kBool) return stored;
  return wanted == at::kHalf || wanted == at::kBFloat16 ? at::kFloat : wanted;
}

void validate_conversion(const std::string& file_path, const Dataset& dataset,
                         at::ScalarType wanted) {
  const at::ScalarType stored = dataset.info.dtype;
  ARCHON_VALIDATE(stored != at::ScalarType::Undefined, "{}: {} holds {}; numbers are needed",
                  file_path, dataset.info.path, class_name(dataset.type.get()));
  ARCHON_VALIDATE(!c10::isFloatingType(stored) || c10::isFloatingType(wanted),
                  "{}: {} holds {} numbers, where integers ({}) are needed", file_path,
                  dataset.info.path, c10::toString(stored), c10::toString(wanted));
}

at::Tensor read_selection(const std::string& file_path, const Dataset& dataset,
                          at::IntArrayRef shape, std::optional<at::ScalarType> dtype) {
  const at::ScalarType wanted = dtype.value_or(dataset.info.dtype);
  validate_conversion(file_path, dataset, wanted);
  const at::ScalarType transfer = transfer_type(dataset.info.dtype, wanted);
  const at::Tensor tensor = at::empty(shape, transfer);
  if (tensor.numel() == 0) return tensor.to(wanted);

  const Handle type = make_type(transfer);
  const Handle memory = make_space(shape);
  const Handle how(ARCHON_HDF5(RuntimeFailure, H5Pcreate(H5P_DATASET_XFER), "transfer list"));
  bool clipped = false;
  ARCHON_HDF5(RuntimeFailure, H5Pset_type_conv_cb(how.get(), refuse_clipping, &clipped),
              "transfer list");
  const herr_t result = H5Dread(dataset.id.get(), type.get(), memory.get(), dataset.space.get(),
                                how.get(), tensor.mutable_data_ptr());
  ARCHON_VALIDATE(!clipped, "{}: {} holds {} numbers that do not fit {}", file_path,
                  dataset.info.path, c10::toString(dataset.info.dtype), c10::toString(transfer));
  ARCHON_HDF5(InputError, result, "{}: cannot read {}; the file may be damaged", file_path,
              dataset.info.path);
  return tensor.to(wanted);
}

at::ScalarType stored_type(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? at::kFloat : dtype;
}

/// On the host, without gaps, in a type that HDF5 knows.
at::Tensor writable(const at::Tensor& tensor) {
  return tensor.cpu().to(stored_type(tensor.scalar_type())).contiguous();
}

/// Lets HDF5 write what is left of a file to memory, where the disk refuses it: it cannot close
/// the file otherwise, and crashes over it when the process ends.
void write_to_memory(hid_t file) {
  void* descriptor = nullptr;
  if (H5Fget_vfd_handle(file, H5P_DEFAULT, &descriptor) < 0) return;
  const int memory = ::memfd_create("archon-hdf5", MFD_CLOEXEC);
  if (memory < 0) return;
  ::dup2(memory, *static_cast<int*>(descriptor));
  ::close(memory);
}

/// Writes and closes: HDF5 hands small writes to the system only when a dataset is flushed, and
/// does not survive a close that fails.
void write_and_close(const std::string& file_path, const std::string& path, const Handle dataset,
                     hid_t space, const at::Tensor& host) {
  const Handle type = make_type(host.scalar_type());
  const Handle memory = make_space(host.sizes());
  try {
    if (host.numel() > 0)
      ARCHON_HDF5(RuntimeFailure,
                  H5Dwrite(dataset.get(), type.get(), memory.get(), space, H5P_DEFAULT,
                           host.const_data_ptr()),
                  "{}: cannot write {}", file_path, path);
    ARCHON_HDF5(RuntimeFailure, H5Dflush(dataset.get()), "{}: cannot write {}", file_path, path);
  } catch (const RuntimeFailure&) {
    write_to_memory(Handle(H5Iget_file_id(dataset.get())).get());
    throw;
  }
}

void ensure_row_shape(const std::string& file_path, const DatasetInfo& info,
                      const at::Tensor& rows) {
  const at::IntArrayRef shape(info.shape);
  ARCHON_ENSURE(!shape.empty() && rows.dim() > 0 && rows.sizes().slice(1) == shape.slice(1),
                "{}: rows of shape [{}] do not fit {} of shape [{}]", file_path,
                fmt::join(rows.sizes(), ", "), info.path, fmt::join(shape, ", "));
}

/// Whole rows, as many as make a chunk of moderate size.
std::vector<hsize_t> chunk_shape(at::IntArrayRef row_shape, at::ScalarType dtype) {
  std::vector<hsize_t> chunk{0};
  int64_t row_bytes = static_cast<int64_t>(c10::elementSize(dtype));
  for (const int64_t size : row_shape) {
    chunk.push_back(static_cast<hsize_t>(std::max<int64_t>(1, size)));
    row_bytes *= std::max<int64_t>(1, size);
  }
  chunk.front() =
      static_cast<hsize_t>(std::clamp<int64_t>(kChunkBytes / row_bytes, 1, kMostRowsPerChunk));
  return chunk;
}

herr_t collect_dataset(hid_t, const char* name, const H5O_info_t* info, void* names) {
  if (info->type == H5O_TYPE_DATASET)
    static_cast<std::vector<std::string>*>(names)->emplace_back(name);
  return 0;
}

herr_t visit_objects(hid_t file, const char* group, std::vector<std::string>* names) {
#if H5_VERSION_GE(1, 12, 0)
  return H5Ovisit_by_name(file, group, H5_INDEX_NAME, H5_ITER_INC, collect_dataset, names,
                          H5O_INFO_BASIC, H5P_DEFAULT);
#else
  return H5Ovisit_by_name(file, group, H5_INDEX_NAME, H5_ITER_INC, collect_dataset, names,
                          H5P_DEFAULT);
#endif
}

}  // namespace

Handle::Handle(Handle&& other) noexcept : id_(other.release()) {}

Handle& Handle::operator=(Handle&& other) noexcept {
  const Handle old(std::exchange(id_, other.release()));
  return *this;
}

Handle::~Handle() {
  if (id_ >= 0) H5Idec_ref(id_);
}

hid_t Handle::release() { return std::exchange(id_, H5I_INVALID_HID); }

File File::open(const std::string& path) { return File(open_file(path, H5F_ACC_RDONLY), path); }

File File::create(const std::string& path, const std::string& schema, int schema_version) {
  // The old file may be locked still by a process of a job that is ending; a new one is not.
  std::error_code ignored;
  if (std::filesystem::is_regular_file(std::filesystem::symlink_status(path, ignored)))
    std::filesystem::remove(path, ignored);
  return create(path, schema, schema_version, access_properties());
}

File File::create(const std::string& path, const std::string& schema, int schema_version,
                  const Handle& access) {
  silence_error_printing();
  File file(Handle(ARCHON_HDF5(RuntimeFailure,
                               H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()),
                               "cannot make the HDF5 file {}", path)),
            path);
  file.set_attribute("/", "archon_version", std::string(version()));
  file.set_attribute("/", "schema", schema);
  file.set_attribute("/", "schema_version", int64_t{schema_version});
  return file;
}

File File::edit(const std::string& path) { return File(open_file(path, H5F_ACC_RDWR), path); }

File File::append(const std::string& path) {
  File file = edit(path);
  ARCHON_VALIDATE(file.string_attribute("/", "archon_version"),
                  "{} was not written by Archon (it has no attribute archon_version); name another "
                  "output",
                  path);
  return file;
}

File::~File() {
  if (id_.get() >= 0 && H5Fflush(id_.get(), H5F_SCOPE_LOCAL) < 0) write_to_memory(id_.get());
}

bool File::has(const std::string& dataset) const {
  const std::string path = absolute(dataset);
  if (!exists(id_.get(), path_, path)) return false;
  const Handle object(ARCHON_HDF5(InputError, H5Oopen(id_.get(), path.c_str(), H5P_DEFAULT),
                                  "{}: cannot open {}", path_, path));
  return H5Iget_type(object.get()) == H5I_DATASET;
}

DatasetInfo File::info(const std::string& dataset) const {
  return find_dataset(*this, id_.get(), dataset).info;
}

std::vector<DatasetInfo> File::datasets(const std::string& group) const {
  const std::string root = absolute(group);
  ARCHON_VALIDATE(exists(id_.get(), path_, root), "{} has no group {}", path_, root);
  std::vector<std::string> names;
  ARCHON_HDF5(InputError, visit_objects(id_.get(), root.c_str(), &names),
              "{}: cannot list {}; the file may be damaged", path_, root);
  std::vector<DatasetInfo> all;
  for (const std::string& name : names) {
    const std::string path = root.ends_with('/') ? root + name : root + '/' + name;
    all.push_back(open_dataset(id_.get(), path_, path).info);
  }
  std::ranges::sort(all, {}, &DatasetInfo::path);
  return all;
}

at::Tensor File::read(const std::string& dataset, std::optional<at::ScalarType> dtype) const {
  const Dataset found = find_dataset(*this, id_.get(), dataset);
  return read_selection(path_, found, found.info.shape, dtype);
}

at::Tensor File::read_rows(const std::string& dataset, int64_t begin, int64_t count,
                           std::optional<at::ScalarType> dtype) const {
  const Dataset found = find_dataset(*this, id_.get(), dataset);
  std::vector<int64_t> block = found.info.shape;
  ARCHON_VALIDATE(!block.empty(), "{}: {} is a scalar; a dataset with rows is needed", path_,
                  found.info.path);
  ARCHON_VALIDATE(begin >= 0 && count >= 0 && begin <= block.front() - count,
                  "{}: {} rows of {} from row {} on are asked for; it has {} rows", path_, count,
                  found.info.path, begin, block.front());
  block.front() = count;
  if (count > 0) select_rows(found.space.get(), begin, block);
  return read_selection(path_, found, block, dtype);
}

double File::read_scalar(const std::string& dataset) const {
  const DatasetInfo found = info(dataset);
  const int64_t elements =
      std::accumulate(found.shape.begin(), found.shape.end(), int64_t{1}, std::multiplies<>());
  ARCHON_VALIDATE(elements == 1, "{}: {} has shape [{}]; one number is needed", path_, found.path,
                  fmt::join(found.shape, ", "));
  return read(dataset, at::kDouble).item<double>();
}

std::string File::read_string(const std::string& dataset) const {
  const Dataset found = find_dataset(*this, id_.get(), dataset);
  const bool is_string = H5Tget_class(found.type.get()) == H5T_STRING;
  ARCHON_VALIDATE(is_string && found.info.shape.empty(), "{}: {} is not one string", path_,
                  found.info.path);
  const bool variable = H5Tis_variable_str(found.type.get()) > 0;
  std::string fixed(H5Tget_size(found.type.get()), '\0');
  char* text = nullptr;
  void* const to = variable ? static_cast<void*>(&text) : fixed.data();
  ARCHON_HDF5(InputError,
              H5Dread(found.id.get(), found.type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, to),
              "{}: cannot read {}; the file may be damaged", path_, found.info.path);
  if (!variable) return fixed.substr(0, fixed.find('\0'));
  std::string result = text != nullptr ? text : "";
  H5free_memory(text);
  return result;
}

void File::write(const std::string& dataset, const at::Tensor& tensor) {
  const std::string path = absolute(dataset);
  const at::Tensor host = writable(tensor);
  const Handle space = make_space(host.sizes());
  Handle id = create_dataset(id_.get(), path_, path, make_type(host.scalar_type()).get(),
                             space.get(), dataset_properties().get());
  write_and_close(path_, path, std::move(id), H5S_ALL, host);
}

void File::write_deflated(const std::string& dataset, const at::Tensor& vector, int64_t chunk,
                          int64_t level) {
  const std::string path = absolute(dataset);
  const at::Tensor host = writable(vector);
  const Handle space = make_space(host.sizes()), properties = dataset_properties();
  const auto size = static_cast<hsize_t>(std::min(chunk, host.numel()));
  ARCHON_HDF5(RuntimeFailure, H5Pset_chunk(properties.get(), 1, &size), "chunks");
  // Neighbouring floats share their leading bytes, not their trailing ones.
  ARCHON_HDF5(RuntimeFailure, H5Pset_shuffle(properties.get()), "shuffling");
  ARCHON_HDF5(RuntimeFailure, H5Pset_deflate(properties.get(), static_cast<unsigned>(level)),
              "compression");
  Handle id = create_dataset(id_.get(), path_, path, make_type(host.scalar_type()).get(),
                             space.get(), properties.get());
  write_and_close(path_, path, std::move(id), H5S_ALL, host);
}

void File::write_scalar(const std::string& dataset, double value) {
  write(dataset, at::scalar_tensor(value, at::kDouble));
}

void File::write_string(const std::string& dataset, const std::string& text) {
  const std::string path = absolute(dataset);
  const Handle type = string_type(), space = make_space({});
  const Handle id = create_dataset(id_.get(), path_, path, type.get(), space.get(),
                                   dataset_properties().get());
  const char* characters = text.c_str();
  ARCHON_HDF5(RuntimeFailure,
              H5Dwrite(id.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, &characters),
              "{}: cannot write {}", path_, path);
}

void File::create_rows(const std::string& dataset, const std::vector<int64_t>& row_shape,
                       at::ScalarType dtype, std::optional<int64_t> rows) {
  std::vector<hsize_t> dims{static_cast<hsize_t>(rows.value_or(0))};
  dims.insert(dims.end(), row_shape.begin(), row_shape.end());
  std::vector<hsize_t> limits = dims;
  const Handle properties = dataset_properties();
  const int rank = static_cast<int>(dims.size());
  if (!rows) {
    limits.front() = H5S_UNLIMITED;
    const std::vector<hsize_t> chunk = chunk_shape(row_shape, stored_type(dtype));
    ARCHON_HDF5(RuntimeFailure, H5Pset_chunk(properties.get(), rank, chunk.data()),
                "{}: chunks of {}", path_, dataset);
  }
  const Handle space(ARCHON_HDF5(RuntimeFailure, H5Screate_simple(rank, dims.data(), limits.data()),
                                 "{}: shape of {}", path_, dataset));
  create_dataset(id_.get(), path_, absolute(dataset), make_type(stored_type(dtype)).get(),
                 space.get(), properties.get());
}

void File::append_rows(const std::string& dataset, const at::Tensor& rows) {
  const Dataset found = find_dataset(*this, id_.get(), dataset);
  ensure_row_shape(path_, found.info, rows);
  std::vector<hsize_t> dims(found.info.shape.begin(), found.info.shape.end());
  dims.front() += static_cast<hsize_t>(rows.size(0));
  ARCHON_HDF5(RuntimeFailure, H5Dset_extent(found.id.get(), dims.data()),
              "{}: cannot append {} rows to {}", path_, rows.size(0), found.info.path);
  write_rows(dataset, found.info.rows(), rows);
}

void File::remove(const std::string& dataset) {
  const Dataset found = find_dataset(*this, id_.get(), dataset);
  ARCHON_HDF5(RuntimeFailure, H5Ldelete(id_.get(), found.info.path.c_str(), H5P_DEFAULT),
              "{}: cannot take out {}", path_, found.info.path);
}

void File::write_rows(const std::string& dataset, int64_t begin, const at::Tensor& rows) {
  Dataset found = find_dataset(*this, id_.get(), dataset);
  ensure_row_shape(path_, found.info, rows);
  ARCHON_ENSURE(begin >= 0 && begin <= found.info.rows() - rows.size(0),
                "{}: {} rows at row {} do not fit {}, which has {}", path_, rows.size(0), begin,
                found.info.path, found.info.rows());
  if (rows.size(0) > 0) select_rows(found.space.get(), begin, rows.sizes());
  write_and_close(path_, found.info.path, std::move(found.id), found.space.get(), writable(rows));
}

void File::flush() {
  ARCHON_HDF5(RuntimeFailure, H5Fflush(id_.get(), H5F_SCOPE_LOCAL), "cannot write {}", path_);
}

}  // namespace archon::h5
