#include "hdf5_types.hpp"

#include <bit>

#include "hdf5_check.hpp"

namespace archon::h5 {
namespace {

static_assert(std::endian::native == std::endian::little);

Handle half_type() {
  Handle type(ARCHON_HDF5(RuntimeFailure, H5Tcopy(H5T_IEEE_F32LE), "cannot make a float16 type"));
  // IEEE binary16: sign at bit 15, 5 exponent bits at 10, 10 mantissa bits at 0, bias 15
  ARCHON_HDF5(RuntimeFailure, H5Tset_fields(type.get(), 15, 10, 5, 0, 10), "float16: fields");
  ARCHON_HDF5(RuntimeFailure, H5Tset_size(type.get(), 2), "float16: size");
  ARCHON_HDF5(RuntimeFailure, H5Tset_ebias(type.get(), 15), "float16: bias");
  return type;
}

Handle bool_type() {
  Handle type(
      ARCHON_HDF5(RuntimeFailure, H5Tenum_create(H5T_STD_I8LE), "cannot make a boolean type"));
  const int8_t no = 0, yes = 1;
  ARCHON_HDF5(RuntimeFailure, H5Tenum_insert(type.get(), "FALSE", &no), "boolean: FALSE");
  ARCHON_HDF5(RuntimeFailure, H5Tenum_insert(type.get(), "TRUE", &yes), "boolean: TRUE");
  return type;
}

at::ScalarType integer_type(hid_t type) {
  const bool is_signed = H5Tget_sign(type) == H5T_SGN_2;
  switch (H5Tget_size(type)) {
    case 1:
      return is_signed ? at::kChar : at::kByte;
    case 2:
      return is_signed ? at::kShort : at::kUInt16;
    case 4:
      return is_signed ? at::kInt : at::kUInt32;
    case 8:
      return is_signed ? at::kLong : at::kUInt64;
    default:
      return at::ScalarType::Undefined;
  }
}

at::ScalarType float_type(hid_t type) {
  const std::size_t size = H5Tget_size(type);
  if (size == 2 && H5Tget_ebias(type) == 15) return at::kHalf;
  return size <= 4 ? at::kFloat : at::kDouble;
}

}  // namespace

at::ScalarType scalar_type(hid_t type) {
  switch (H5Tget_class(type)) {
    case H5T_INTEGER:
      return integer_type(type);
    case H5T_FLOAT:
      return float_type(type);
    case H5T_ENUM:
      return H5Tequal(type, bool_type().get()) > 0 ? at::kBool : at::ScalarType::Undefined;
    default:
      return at::ScalarType::Undefined;
  }
}

Handle make_type(at::ScalarType dtype) {
  const auto copy = [](hid_t type) {
    return Handle(ARCHON_HDF5(RuntimeFailure, H5Tcopy(type), "cannot copy an HDF5 type"));
  };
  switch (dtype) {
    case at::kDouble:
      return copy(H5T_IEEE_F64LE);
    case at::kFloat:
      return copy(H5T_IEEE_F32LE);
    case at::kHalf:
      return half_type();
    case at::kLong:
      return copy(H5T_STD_I64LE);
    case at::kInt:
      return copy(H5T_STD_I32LE);
    case at::kShort:
      return copy(H5T_STD_I16LE);
    case at::kChar:
      return copy(H5T_STD_I8LE);
    case at::kUInt64:
      return copy(H5T_STD_U64LE);
    case at::kUInt32:
      return copy(H5T_STD_U32LE);
    case at::kUInt16:
      return copy(H5T_STD_U16LE);
    case at::kByte:
      return copy(H5T_STD_U8LE);
    case at::kBool:
      return bool_type();
    default:
      throw_runtime_failure(
          fmt::format("tensors of type {} have no HDF5 type in Archon", c10::toString(dtype)));
  }
}

const char* class_name(hid_t type) {
  switch (H5Tget_class(type)) {
    case H5T_STRING:
      return "strings";
    case H5T_COMPOUND:
      return "compound elements";
    case H5T_ENUM:
      return "an enumeration";
    case H5T_VLEN:
      return "elements of variable length";
    case H5T_REFERENCE:
      return "references";
    default:
      return "elements of a type that tensors cannot hold";
  }
}

}  // namespace archon::h5
