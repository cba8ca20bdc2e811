#pragma once

#include <c10/util/ArrayRef.h>

#include "archon/io/hdf5_layout.hpp"

namespace archon::h5 {

/// Files that HDF5 1.10 reads, and that an aborted run leaves without the "open for writing" mark
/// which newer layouts carry.
Handle access_properties();

/// A dataspace of this shape; scalar without dims.
Handle make_space(at::IntArrayRef shape);

/// Selects a rectangle, alone or besides what is selected.
void select(hid_t space, H5S_seloper_t how, const Slab& slab);

/// How new datasets are stored: without times, so that equal contents make equal files.
Handle dataset_properties();

/// Makes a dataset, and the groups on the way.
Handle create_dataset(hid_t file, const std::string& file_path, const std::string& path, hid_t type,
                      hid_t space, hid_t properties);

/// UTF-8 of any length.
Handle string_type();

}  // namespace archon::h5
