#include <algorithm>

#include "archon/io/hdf5.hpp"
#include "hdf5_check.hpp"
#include "hdf5_objects.hpp"

namespace archon::h5 {
namespace {

Handle open_object(hid_t file, const std::string& file_path, const std::string& object) {
  return Handle(ARCHON_HDF5(InputError, H5Oopen(file, object.c_str(), H5P_DEFAULT),
                            "{}: cannot open {}", file_path, object));
}

void write_attribute(const std::string& file_path, hid_t object, const std::string& name,
                     hid_t type, const void* value) {
  const htri_t there = ARCHON_HDF5(RuntimeFailure, H5Aexists(object, name.c_str()),
                                   "{}: attribute {}", file_path, name);
  if (there > 0)
    ARCHON_HDF5(RuntimeFailure, H5Adelete(object, name.c_str()), "{}: cannot replace attribute {}",
                file_path, name);
  const Handle space(ARCHON_HDF5(RuntimeFailure, H5Screate(H5S_SCALAR), "scalar dataspace"));
  const Handle attribute(ARCHON_HDF5(
      RuntimeFailure, H5Acreate2(object, name.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT),
      "{}: cannot make attribute {}", file_path, name));
  ARCHON_HDF5(RuntimeFailure, H5Awrite(attribute.get(), type, value),
              "{}: cannot write attribute {}", file_path, name);
}

/// The attribute, checked to hold one element; an empty handle if it is not there.
Handle find_attribute(const std::string& file_path, hid_t object, const std::string& name) {
  const htri_t there =
      ARCHON_HDF5(InputError, H5Aexists(object, name.c_str()), "{}: attribute {}", file_path, name);
  if (there == 0) return {};
  Handle attribute(ARCHON_HDF5(InputError, H5Aopen(object, name.c_str(), H5P_DEFAULT),
                               "{}: cannot open attribute {}", file_path, name));
  const Handle space(ARCHON_HDF5(InputError, H5Aget_space(attribute.get()),
                                 "{}: shape of attribute {}", file_path, name));
  const auto elements = H5Sget_simple_extent_npoints(space.get());
  ARCHON_VALIDATE(elements == 1, "{}: attribute {} holds {} elements; one is needed", file_path,
                  name, elements);
  return attribute;
}

std::string read_variable_string(const std::string& file_path, const std::string& name,
                                 hid_t attribute, hid_t type) {
  char* text = nullptr;
  ARCHON_HDF5(InputError, H5Aread(attribute, type, &text), "{}: cannot read attribute {}",
              file_path, name);
  std::string result = text != nullptr ? text : "";
  H5free_memory(text);
  return result;
}

std::string read_fixed_string(const std::string& file_path, const std::string& name,
                              hid_t attribute, hid_t type) {
  std::string result(H5Tget_size(type), '\0');
  ARCHON_HDF5(InputError, H5Aread(attribute, type, result.data()), "{}: cannot read attribute {}",
              file_path, name);
  const std::size_t end = H5Tget_strpad(type) == H5T_STR_SPACEPAD
                              ? result.find_last_not_of(' ') + 1
                              : std::min(result.find('\0'), result.size());
  result.resize(end);
  return result;
}

template <class Number>
std::optional<Number> read_number(hid_t file, const std::string& file_path,
                                  const std::string& object, const std::string& name,
                                  hid_t memory_type) {
  const Handle owner = open_object(file, file_path, object);
  const Handle attribute = find_attribute(file_path, owner.get(), name);
  if (attribute.get() < 0) return {};
  const Handle type(ARCHON_HDF5(InputError, H5Aget_type(attribute.get()),
                                "{}: type of attribute {}", file_path, name));
  const H5T_class_t kind = H5Tget_class(type.get());
  ARCHON_VALIDATE(kind == H5T_INTEGER || kind == H5T_FLOAT,
                  "{}: attribute {} of {} is not a number", file_path, name, object);
  Number value{};
  ARCHON_HDF5(InputError, H5Aread(attribute.get(), memory_type, &value),
              "{}: cannot read attribute {}", file_path, name);
  return value;
}

}  // namespace

void File::set_attribute(const std::string& object, const std::string& name,
                         const std::string& value) {
  const Handle type = string_type();
  const char* text = value.c_str();
  write_attribute(path_, open_object(id_.get(), path_, object).get(), name, type.get(), &text);
}

void File::set_attribute(const std::string& object, const std::string& name, int64_t value) {
  write_attribute(path_, open_object(id_.get(), path_, object).get(), name, H5T_STD_I64LE, &value);
}

void File::set_attribute(const std::string& object, const std::string& name, uint64_t value) {
  write_attribute(path_, open_object(id_.get(), path_, object).get(), name, H5T_STD_U64LE, &value);
}

void File::set_attribute(const std::string& object, const std::string& name, double value) {
  write_attribute(path_, open_object(id_.get(), path_, object).get(), name, H5T_IEEE_F64LE, &value);
}

std::optional<std::string> File::string_attribute(const std::string& object,
                                                  const std::string& name) const {
  const Handle owner = open_object(id_.get(), path_, object);
  const Handle attribute = find_attribute(path_, owner.get(), name);
  if (attribute.get() < 0) return {};
  const Handle type(ARCHON_HDF5(InputError, H5Aget_type(attribute.get()),
                                "{}: type of attribute {}", path_, name));
  ARCHON_VALIDATE(H5Tget_class(type.get()) == H5T_STRING, "{}: attribute {} of {} is not a string",
                  path_, name, object);
  return H5Tis_variable_str(type.get()) > 0
             ? read_variable_string(path_, name, attribute.get(), type.get())
             : read_fixed_string(path_, name, attribute.get(), type.get());
}

std::optional<double> File::number_attribute(const std::string& object,
                                             const std::string& name) const {
  return read_number<double>(id_.get(), path_, object, name, H5T_NATIVE_DOUBLE);
}

std::optional<uint64_t> File::unsigned_attribute(const std::string& object,
                                                 const std::string& name) const {
  return read_number<uint64_t>(id_.get(), path_, object, name, H5T_NATIVE_UINT64);
}

}  // namespace archon::h5
