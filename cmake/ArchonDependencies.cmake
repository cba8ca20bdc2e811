# Third-party libraries; docs/architecture.md says why each was chosen.
find_package(Threads REQUIRED)
find_package(MPI 3.1 REQUIRED COMPONENTS C)
# mpi.h offers C++ programs bindings that left the standard with MPI 3 and need a library of their own.
target_compile_definitions(MPI::MPI_C INTERFACE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
set(HDF5_PREFER_PARALLEL ON)
# Where Debian keeps the parallel build. FindHDF5 learns it from h5pcc, but that script does not
# work in a folder with a blank in its name.
list(APPEND CMAKE_LIBRARY_PATH /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/hdf5/openmpi)
list(APPEND CMAKE_INCLUDE_PATH /usr/include/hdf5/openmpi)
find_package(HDF5 1.10 REQUIRED COMPONENTS C)
if(NOT HDF5_IS_PARALLEL)
  message(FATAL_ERROR "HDF5 ${HDF5_VERSION} was built without MPI; "
    "install libhdf5-openmpi-dev, or point HDF5_ROOT at a parallel HDF5")
endif()
find_package(Boost 1.74 REQUIRED COMPONENTS program_options)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json 3 REQUIRED)
if(ARCHON_CUDA)
  find_package(LibTorch 2.13 REQUIRED COMPONENTS CUDA)
  find_package(NCCL 2.19 REQUIRED)
else()
  find_package(LibTorch 2.13 REQUIRED)
endif()
# Header only as it is used here: no library to link.
find_path(XXHASH_INCLUDE_DIR xxhash.h REQUIRED)

add_library(archon_hdf5 INTERFACE)
target_include_directories(archon_hdf5 SYSTEM INTERFACE ${HDF5_INCLUDE_DIRS})
target_link_libraries(archon_hdf5 INTERFACE ${HDF5_C_LIBRARIES})

add_library(archon_xxhash INTERFACE)
target_include_directories(archon_xxhash SYSTEM INTERFACE ${XXHASH_INCLUDE_DIR})
