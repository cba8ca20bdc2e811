# Finds the CPU part of LibTorch inside a PyTorch wheel (or any unpacked LibTorch).
#
# The wheel's own TorchConfig.cmake insists on a CUDA toolkit, and its include folder carries a
# copy of fmt that would hide the system's; so this module links libtorch_cpu and libc10 by
# itself and offers only the headers that belong to LibTorch.
#
#   LIBTORCH_ROOT       folder that holds include/ and lib/ (hint; also an environment variable)
#   LibTorch::cpu       imported target
#   LibTorch::cuda      imported target, with CUDA's runtime, where the component CUDA is asked for
#   LibTorch_VERSION    as in torch/version.py's header twin, torch/headeronly/version.h

find_path(LibTorch_ROOT_DIR NAMES include/ATen/core/Tensor.h
  HINTS ${LIBTORCH_ROOT} $ENV{LIBTORCH_ROOT}
  PATHS ${CMAKE_SOURCE_DIR}/.venv/lib/python3/site-packages/torch
  NO_DEFAULT_PATH)
if(NOT LibTorch_ROOT_DIR)
  file(GLOB _candidates ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
  find_path(LibTorch_ROOT_DIR NAMES include/ATen/core/Tensor.h HINTS ${_candidates})
endif()
find_library(LibTorch_CPU_LIBRARY torch_cpu HINTS ${LibTorch_ROOT_DIR}/lib NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY c10 HINTS ${LibTorch_ROOT_DIR}/lib NO_DEFAULT_PATH)
# at::parallel_for is a template: files compiled without OpenMP get a serial one, silently. The
# OpenMP library is LibTorch's own where it brings one, so that there is one pool of threads.
find_package(OpenMP REQUIRED COMPONENTS CXX)
file(GLOB LibTorch_OPENMP_LIBRARY ${LibTorch_ROOT_DIR}/lib/libgomp*.so.1)
if(NOT LibTorch_OPENMP_LIBRARY)
  set(LibTorch_OPENMP_LIBRARY ${OpenMP_CXX_LIBRARIES})
endif()

if(LibTorch_ROOT_DIR)
  foreach(_header torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
    if(NOT LibTorch_VERSION AND EXISTS ${LibTorch_ROOT_DIR}/include/${_header})
      file(STRINGS ${LibTorch_ROOT_DIR}/include/${_header} _line
        REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
      string(REGEX REPLACE "[^0-9;]" "" _numbers "${_line}")
      string(REPLACE ";" "." LibTorch_VERSION "${_numbers}")
    endif()
  endforeach()
endif()

if("CUDA" IN_LIST LibTorch_FIND_COMPONENTS)
  find_library(LibTorch_CUDA_LIBRARY torch_cuda HINTS ${LibTorch_ROOT_DIR}/lib NO_DEFAULT_PATH)
  find_library(LibTorch_C10_CUDA_LIBRARY c10_cuda HINTS ${LibTorch_ROOT_DIR}/lib NO_DEFAULT_PATH)
  # The runtime's headers: the site's toolkit, or the wheels beside LibTorch's.
  find_path(LibTorch_CUDART_INCLUDE_DIR cuda_runtime_api.h
    HINTS ${CUDAToolkit_ROOT} ENV CUDA_HOME PATHS /usr/local/cuda
      ${LibTorch_ROOT_DIR}/../nvidia/cu13 PATH_SUFFIXES include)
  find_library(LibTorch_CUDART_LIBRARY NAMES cudart libcudart.so.13 NAMES_PER_DIR
    HINTS ${LibTorch_CUDART_INCLUDE_DIR}/.. PATH_SUFFIXES lib64 lib)
  if(LibTorch_CUDA_LIBRARY AND LibTorch_C10_CUDA_LIBRARY AND LibTorch_CUDART_INCLUDE_DIR
      AND LibTorch_CUDART_LIBRARY)
    set(LibTorch_CUDA_FOUND TRUE)
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch HANDLE_COMPONENTS
  REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_ROOT_DIR
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "run job_scripts/setup.sh, or set LIBTORCH_ROOT")

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  if(NOT ARCHON_SHARED_FOLDER)
    set(ARCHON_SHARED_FOLDER ${CMAKE_BINARY_DIR})
  endif()
  string(SHA1 _place ${LibTorch_ROOT_DIR})
  set(_include ${ARCHON_SHARED_FOLDER}/libtorch-include/${_place})
  file(MAKE_DIRECTORY ${_include})
  foreach(_name ATen c10 caffe2 torch)
    file(CREATE_LINK ${LibTorch_ROOT_DIR}/include/${_name} ${_include}/${_name} SYMBOLIC)
  endforeach()

  add_library(LibTorch::c10 SHARED IMPORTED)
  set_target_properties(LibTorch::c10 PROPERTIES IMPORTED_LOCATION ${LibTorch_C10_LIBRARY})
  add_library(LibTorch::cpu SHARED IMPORTED)
  set_target_properties(LibTorch::cpu PROPERTIES
    IMPORTED_LOCATION ${LibTorch_CPU_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${_include}
    INTERFACE_SYSTEM_INCLUDE_DIRECTORIES ${_include}
    INTERFACE_COMPILE_OPTIONS "$<$<COMPILE_LANGUAGE:CXX>:${OpenMP_CXX_FLAGS}>"
    INTERFACE_LINK_LIBRARIES "LibTorch::c10;${LibTorch_OPENMP_LIBRARY}"
    # libcudart and libcupti are found through libtorch_cpu's own run path when it is loaded
    INTERFACE_LINK_OPTIONS -Wl,--allow-shlib-undefined)
endif()

if(LibTorch_CUDA_FOUND AND NOT TARGET LibTorch::cuda)
  add_library(LibTorch::c10_cuda SHARED IMPORTED)
  set_target_properties(LibTorch::c10_cuda PROPERTIES IMPORTED_LOCATION ${LibTorch_C10_CUDA_LIBRARY})
  add_library(LibTorch::cuda SHARED IMPORTED)
  set_target_properties(LibTorch::cuda PROPERTIES
    IMPORTED_LOCATION ${LibTorch_CUDA_LIBRARY}
    INTERFACE_SYSTEM_INCLUDE_DIRECTORIES ${LibTorch_CUDART_INCLUDE_DIR}
    # Nothing refers to libtorch_cuda by name: its kernels register themselves when it is loaded.
    INTERFACE_LINK_OPTIONS -Wl,--no-as-needed
    INTERFACE_LINK_LIBRARIES "LibTorch::c10_cuda;LibTorch::cpu;${LibTorch_CUDART_LIBRARY}")
endif()
