# Finds NCCL: the site's (NCCL_ROOT, CUDA_HOME), or the wheel beside LibTorch's.
#
#   NCCL::nccl      imported target
#   NCCL_VERSION    as nccl.h has it
set(_wheel ${LibTorch_ROOT_DIR}/../nvidia/nccl)
find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${NCCL_ROOT} ${_wheel} ENV NCCL_ROOT ENV CUDA_HOME
  PATHS /usr/local/cuda PATH_SUFFIXES include)
# The library that the header belongs to. The wheel has no libnccl.so.
find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 NAMES_PER_DIR
  HINTS ${NCCL_INCLUDE_DIR}/.. PATH_SUFFIXES lib64 lib)

if(NCCL_INCLUDE_DIR)
  file(STRINGS ${NCCL_INCLUDE_DIR}/nccl.h _lines REGEX "#define NCCL_(MAJOR|MINOR|PATCH) [0-9]+")
  string(REGEX REPLACE "[^0-9;]" "" _numbers "${_lines}")
  string(REPLACE ";" "." NCCL_VERSION "${_numbers}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_LIBRARY NCCL_INCLUDE_DIR
  VERSION_VAR NCCL_VERSION
  REASON_FAILURE_MESSAGE "run job_scripts/setup.sh --cuda, or set NCCL_ROOT")

if(NCCL_FOUND AND NOT TARGET NCCL::nccl)
  add_library(NCCL::nccl SHARED IMPORTED)
  set_target_properties(NCCL::nccl PROPERTIES IMPORTED_LOCATION ${NCCL_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${NCCL_INCLUDE_DIR}
    INTERFACE_SYSTEM_INCLUDE_DIRECTORIES ${NCCL_INCLUDE_DIR})
endif()
