#include "archon/io/hdf5_collective.hpp"

#include "hdf5_check.hpp"
#include "hdf5_objects.hpp"

namespace archon::h5 {
namespace {

/// MPI_Info with what MPI-IO should know about our writes; freed at the end.
class Hints {
 public:
  Hints() {
    ARCHON_MPI(MPI_Info_create(&info_));
    // Ranks collect the pieces of neighbours into large writes, instead of reading, changing and
    // writing back what lies between their own.
    ARCHON_MPI(MPI_Info_set(info_, "romio_cb_write", "enable"));
    ARCHON_MPI(MPI_Info_set(info_, "romio_ds_write", "disable"));
  }
  ~Hints() { MPI_Info_free(&info_); }
  Hints(const Hints&) = delete;
  Hints& operator=(const Hints&) = delete;
  MPI_Info get() const { return info_; }

 private:
  MPI_Info info_ = MPI_INFO_NULL;
};

Handle open_collectively(const std::string& path, MPI_Comm comm) {
  silence_error_printing();
  const Hints hints;
  const Handle access = access_properties();
  ARCHON_HDF5(RuntimeFailure, H5Pset_fapl_mpio(access.get(), comm, hints.get()), "MPI-IO");
  return Handle(ARCHON_HDF5(RuntimeFailure, H5Fopen(path.c_str(), H5F_ACC_RDWR, access.get()),
                            "cannot open {} through MPI-IO", path));
}

}  // namespace

CollectiveFile::CollectiveFile(const std::string& path, const Communicator& group)
    : path_(path), file_(open_collectively(path, group.mpi())) {}

void CollectiveFile::write(const std::string& dataset, const std::vector<Slab>& slabs,
                           const float* elements) {
  const Handle id(ARCHON_HDF5(RuntimeFailure, H5Dopen2(file_.get(), dataset.c_str(), H5P_DEFAULT),
                              "{}: cannot open {}", path_, dataset));
  const Handle space(
      ARCHON_HDF5(RuntimeFailure, H5Dget_space(id.get()), "{}: shape of {}", path_, dataset));
  ARCHON_HDF5(RuntimeFailure, H5Sselect_none(space.get()), "selection");
  for (const Slab& slab : slabs) select(space.get(), H5S_SELECT_OR, slab);
  const hssize_t count = H5Sget_select_npoints(space.get());
  const Handle memory = make_space({std::max<int64_t>(1, count)});
  if (count == 0) ARCHON_HDF5(RuntimeFailure, H5Sselect_none(memory.get()), "selection");
  const Handle how(ARCHON_HDF5(RuntimeFailure, H5Pcreate(H5P_DATASET_XFER), "transfer list"));
  ARCHON_HDF5(RuntimeFailure, H5Pset_dxpl_mpio(how.get(), H5FD_MPIO_COLLECTIVE), "transfer list");
  ARCHON_HDF5(RuntimeFailure,
              H5Dwrite(id.get(), H5T_NATIVE_FLOAT, memory.get(), space.get(), how.get(), elements),
              "cannot write {} of {}", dataset, path_);
}

void CollectiveFile::close() {
  ARCHON_HDF5(RuntimeFailure, H5Fclose(file_.release()), "cannot close {}", path_);
}

}  // namespace archon::h5
