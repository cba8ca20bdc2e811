#pragma once

#include <c10/core/ScalarType.h>
#include <hdf5.h>

#include "archon/io/hdf5.hpp"

namespace archon::h5 {

/// The nearest LibTorch type of a dataset's type; Undefined for what tensors cannot hold.
at::ScalarType scalar_type(hid_t type);

/// The type of `dtype` in files (little-endian) and in memory alike: Archon runs on little-endian
/// machines only. Bool is h5py's enumeration of FALSE and TRUE. RuntimeFailure for a dtype without
/// one.
Handle make_type(at::ScalarType dtype);

/// "strings", "compound", ...: for messages about types that tensors cannot hold.
const char* class_name(hid_t type);

}  // namespace archon::h5
