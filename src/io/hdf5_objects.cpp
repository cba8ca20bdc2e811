#include "hdf5_objects.hpp"

#include <fmt/ranges.h>

#include "hdf5_check.hpp"

namespace archon::h5 {

Handle access_properties() {
  Handle list(ARCHON_HDF5(RuntimeFailure, H5Pcreate(H5P_FILE_ACCESS), "file access list"));
  ARCHON_HDF5(RuntimeFailure,
              H5Pset_libver_bounds(list.get(), H5F_LIBVER_EARLIEST, H5F_LIBVER_V110),
              "file format bounds");
  return list;
}

Handle make_space(at::IntArrayRef shape) {
  if (shape.empty())
    return Handle(ARCHON_HDF5(RuntimeFailure, H5Screate(H5S_SCALAR), "scalar dataspace"));
  const std::vector<hsize_t> dims(shape.begin(), shape.end());
  return Handle(ARCHON_HDF5(RuntimeFailure,
                            H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr),
                            "dataspace of shape [{}]", fmt::join(shape, ", ")));
}

void select(hid_t space, H5S_seloper_t how, const Slab& slab) {
  const std::vector<hsize_t> begin(slab.begin.begin(), slab.begin.end());
  const std::vector<hsize_t> count(slab.count.begin(), slab.count.end());
  ARCHON_HDF5(RuntimeFailure,
              H5Sselect_hyperslab(space, how, begin.data(), nullptr, count.data(), nullptr),
              "cannot select [{}] elements from [{}]", fmt::join(count, ", "),
              fmt::join(begin, ", "));
}

Handle dataset_properties() {
  Handle list(ARCHON_HDF5(RuntimeFailure, H5Pcreate(H5P_DATASET_CREATE), "dataset list"));
  // Equal contents make equal files.
  ARCHON_HDF5(RuntimeFailure, H5Pset_obj_track_times(list.get(), false), "dataset times");
  return list;
}

Handle create_dataset(hid_t file, const std::string& file_path, const std::string& path, hid_t type,
                      hid_t space, hid_t properties) {
  const Handle link(ARCHON_HDF5(RuntimeFailure, H5Pcreate(H5P_LINK_CREATE), "link list"));
  ARCHON_HDF5(RuntimeFailure, H5Pset_create_intermediate_group(link.get(), 1), "link list");
  ARCHON_HDF5(RuntimeFailure, H5Pset_char_encoding(link.get(), H5T_CSET_UTF8), "link list");
  return Handle(ARCHON_HDF5(
      RuntimeFailure,
      H5Dcreate2(file, path.c_str(), type, space, link.get(), properties, H5P_DEFAULT),
      "{}: cannot make the dataset {}", file_path, path));
}

Handle string_type() {
  Handle type(ARCHON_HDF5(RuntimeFailure, H5Tcopy(H5T_C_S1), "string type"));
  ARCHON_HDF5(RuntimeFailure, H5Tset_size(type.get(), H5T_VARIABLE), "string type");
  ARCHON_HDF5(RuntimeFailure, H5Tset_cset(type.get(), H5T_CSET_UTF8), "string type");
  return type;
}

}  // namespace archon::h5
