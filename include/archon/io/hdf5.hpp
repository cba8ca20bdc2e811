#pragma once

#include <ATen/core/Tensor.h>
#include <hdf5.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace archon::h5 {

/// Move-only owner of any HDF5 identifier; gives back its one reference, whatever its kind. Never
/// throws on close.
class Handle {
 public:
  Handle() = default;
  explicit Handle(hid_t id) : id_(id) {}
  Handle(Handle&& other) noexcept;
  Handle& operator=(Handle&& other) noexcept;
  ~Handle();
  hid_t get() const { return id_; }
  /// Gives the identifier up, for a close whose result matters.
  hid_t release();

 private:
  hid_t id_ = H5I_INVALID_HID;
};

/// What a dataset is, read without its data.
struct DatasetInfo {
  std::string path;  ///< from the root, "/sft/loss"
  std::vector<int64_t> shape;
  at::ScalarType dtype;  ///< nearest LibTorch type; Undefined for strings and other non-numbers
  int64_t rows() const { return shape.empty() ? 1 : shape.front(); }
};

/// An HDF5 file with tensors in it.
///
/// Reading: the file must exist and be HDF5, else InputError that names it; a dataset that is
/// absent, damaged or of a type or rank other than asked for is an InputError that names file,
/// dataset and what was found. Writing: RuntimeFailure with HDF5's own reason; flush() before the
/// end, since a destructor cannot report that the last bytes did not fit on the disk.
///
/// Types: every LibTorch number type as itself, bool as h5py's enumeration of FALSE and TRUE,
/// bfloat16 (which HDF5 does not know) as float32. Not for use by several threads at a time.
class File {
 public:
  static File open(const std::string& path);
  /// Makes a new file (an old one is replaced) readable by HDF5 1.10, with the root attributes
  /// archon_version, schema and schema_version.
  static File create(const std::string& path, const std::string& schema, int schema_version);
  /// Opens a file to change it, whoever wrote it.
  static File edit(const std::string& path);
  /// Opens a file that Archon wrote, to go on writing; InputError if it is not there or is not one.
  static File append(const std::string& path);
  File(File&&) = default;
  File& operator=(File&&) = default;
  ~File();

  const std::string& path() const { return path_; }
  /// Whether a dataset (not a group) is at this path; a leading "/" may be left out everywhere.
  bool has(const std::string& dataset) const;
  DatasetInfo info(const std::string& dataset) const;
  /// All datasets below `group`, sorted by path.
  std::vector<DatasetInfo> datasets(const std::string& group = "/") const;

  /// The whole dataset in its own type, or converted to `dtype`. Floats are not read as integers,
  /// and a value that does not fit `dtype` is an InputError, never clipped.
  at::Tensor read(const std::string& dataset, std::optional<at::ScalarType> dtype = {}) const;
  /// Rows [begin, begin + count) along dim 0.
  at::Tensor read_rows(const std::string& dataset, int64_t begin, int64_t count,
                       std::optional<at::ScalarType> dtype = {}) const;
  /// A dataset of exactly one element.
  double read_scalar(const std::string& dataset) const;
  /// A scalar dataset of one string.
  std::string read_string(const std::string& dataset) const;

  /// Writes a new dataset; groups on the way are made. A 0-d tensor becomes a scalar dataset.
  void write(const std::string& dataset, const at::Tensor& tensor);
  /// The same in chunks of `chunk` elements, shuffled and deflated; a vector with elements.
  void write_deflated(const std::string& dataset, const at::Tensor& vector, int64_t chunk,
                      int64_t level);
  void write_scalar(const std::string& dataset, double value);
  /// A scalar dataset of one UTF-8 string.
  void write_string(const std::string& dataset, const std::string& text);
  /// Makes a chunked dataset of `row_shape` rows, 0 of them at first and without limit, or,
  /// with `rows`, a contiguous one of that many rows that are written later.
  void create_rows(const std::string& dataset, const std::vector<int64_t>& row_shape,
                   at::ScalarType dtype, std::optional<int64_t> rows = {});
  /// Appends rows to a chunked dataset.
  void append_rows(const std::string& dataset, const at::Tensor& rows);
  /// Takes a dataset out. The file does not become smaller.
  void remove(const std::string& dataset);
  void write_rows(const std::string& dataset, int64_t begin, const at::Tensor& rows);

  void set_attribute(const std::string& object, const std::string& name, const std::string& value);
  void set_attribute(const std::string& object, const std::string& name, int64_t value);
  void set_attribute(const std::string& object, const std::string& name, uint64_t value);
  void set_attribute(const std::string& object, const std::string& name, double value);
  std::optional<std::string> string_attribute(const std::string& object,
                                              const std::string& name) const;
  std::optional<double> number_attribute(const std::string& object, const std::string& name) const;
  std::optional<uint64_t> unsigned_attribute(const std::string& object,
                                             const std::string& name) const;

  void flush();
  /// For what this class does not offer.
  hid_t id() const { return id_.get(); }

 private:
  friend class FileLayout;
  static File create(const std::string& path, const std::string& schema, int schema_version,
                     const Handle& access);
  File(Handle id, std::string path) : id_(std::move(id)), path_(std::move(path)) {}
  Handle id_;
  std::string path_;
};

}  // namespace archon::h5
