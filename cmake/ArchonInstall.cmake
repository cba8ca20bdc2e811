# What `cmake --install` gives besides the targets: headers, the CMake package, scripts and
# documents; and LibTorch itself, where it would not outlive the source tree.
include(CMakePackageConfigHelpers)
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/Archon)
set(data_folder ${CMAKE_INSTALL_DATADIR}/archon)

install(DIRECTORY include/archon DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

cmake_path(IS_PREFIX PROJECT_SOURCE_DIR "${LibTorch_ROOT_DIR}" NORMALIZE libtorch_in_source)
if(NOT libtorch_in_source)
  set(site_libtorch ${LibTorch_ROOT_DIR})
  set(on_demand EXCLUDE_FROM_ALL)  # cmake --install BUILD --component libtorch
endif()
archon_install_folders(${ARCHON_INSTALL_LIBTORCHDIR}/lib ${ARCHON_INSTALL_LIBTORCHDIR}/include
  RULE COMPONENT libtorch ${on_demand})
# In one folder they find each other. libtorch_cpu of the PyPI wheel needs two libraries of CUDA.
file(GLOB libtorch_libraries
  ${LibTorch_ROOT_DIR}/lib/libtorch_cpu.so ${LibTorch_ROOT_DIR}/lib/libc10.so
  ${LibTorch_ROOT_DIR}/lib/libgomp*.so.1
  ${LibTorch_ROOT_DIR}/../nvidia/*/lib/libcudart.so.*
  ${LibTorch_ROOT_DIR}/../nvidia/*/lib/libcupti.so.*)
if(ARCHON_CUDA)  # whose part needs them all: 3 GB
  file(GLOB cuda_libraries
    ${LibTorch_ROOT_DIR}/lib/libtorch_cuda*.so ${LibTorch_ROOT_DIR}/lib/libtorch_nvshmem.so
    ${LibTorch_ROOT_DIR}/lib/libc10_cuda.so ${LibTorch_ROOT_DIR}/../nvidia/*/lib/*.so*)
  list(APPEND libtorch_libraries ${cuda_libraries})
  list(REMOVE_DUPLICATES libtorch_libraries)
endif()
install(FILES ${libtorch_libraries}
  DESTINATION ${ARCHON_INSTALL_LIBTORCHDIR}/lib COMPONENT libtorch ${on_demand})
foreach(headers ATen c10 caffe2 torch)
  install(DIRECTORY ${LibTorch_ROOT_DIR}/include/${headers}
    DESTINATION ${ARCHON_INSTALL_LIBTORCHDIR}/include COMPONENT libtorch ${on_demand})
endforeach()

configure_package_config_file(cmake/ArchonConfig.cmake.in ${PROJECT_BINARY_DIR}/ArchonConfig.cmake
  INSTALL_DESTINATION ${package_folder}
  PATH_VARS CMAKE_INSTALL_BINDIR CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_INCLUDEDIR
    ARCHON_INSTALL_LIBTORCHDIR)
# Plugins fit the version they were built with alone.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/ArchonConfigVersion.cmake
  COMPATIBILITY ExactVersion)
install(FILES ${PROJECT_BINARY_DIR}/ArchonConfig.cmake
  ${PROJECT_BINARY_DIR}/ArchonConfigVersion.cmake
  cmake/ArchonPlugin.cmake cmake/ArchonGolden.cmake cmake/FindLibTorch.cmake
  DESTINATION ${package_folder})

# Scripts that need no source tree, and the Python helpers they call.
install(DIRECTORY job_scripts DESTINATION ${data_folder}
  FILE_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE
    WORLD_READ WORLD_EXECUTE
  PATTERN probe EXCLUDE
  PATTERN setup.sh EXCLUDE
  PATTERN gpu_check.sh EXCLUDE
  PATTERN quickstart.sh EXCLUDE
  PATTERN grpo_demo.sh EXCLUDE)
install(DIRECTORY tools examples DESTINATION ${data_folder}
  PATTERN __pycache__ EXCLUDE
  PATTERN build EXCLUDE)

# The tools put the version into what they write.
file(WRITE ${PROJECT_BINARY_DIR}/VERSION "${PROJECT_VERSION}\n")
install(FILES ${PROJECT_BINARY_DIR}/VERSION DESTINATION ${data_folder})

install(FILES README.md CHANGELOG.md CONTRIBUTING.md LICENSE CITATION.cff
  DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/archon)
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/archon
  PATTERN *.py EXCLUDE
  PATTERN *.awk EXCLUDE
  PATTERN Doxyfile EXCLUDE
  PATTERN _static EXCLUDE
  PATTERN __pycache__ EXCLUDE)
