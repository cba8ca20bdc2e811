# Compiler settings that every Archon target shares.
option(ARCHON_WERROR "Treat compiler warnings as errors" OFF)
option(ARCHON_SANITIZE "Build with the address and undefined-behaviour sanitizers" OFF)
option(ARCHON_CUDA "Build for GPUs too: CUDA and NCCL (docs/gpu.md)" OFF)
option(ARCHON_BENCHMARKS "Build the programs in benchmarks/" ON)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

# Generators of several configurations would add a folder for each; $<0:> keeps them from it.
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin$<0:>)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib$<0:>)

find_program(ARCHON_CCACHE ccache)
if(ARCHON_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${ARCHON_CCACHE})
endif()

# Usage requirements of every Archon target: warnings and, on demand, sanitizers.
add_library(archon_settings INTERFACE)
target_compile_options(archon_settings INTERFACE
  $<$<COMPILE_LANGUAGE:C,CXX>:-Wall -Wextra $<$<BOOL:${ARCHON_WERROR}>:-Werror>>)
# LibTorch's headers include the operators that they need, not all there are.
target_compile_definitions(archon_settings INTERFACE AT_PER_OPERATOR_HEADERS)
if(ARCHON_CUDA)
  # Data centre GPUs of three generations: A100, H100, B200.
  set(CMAKE_CUDA_ARCHITECTURES 80;90;100 CACHE STRING "Compute capabilities of the CUDA kernels")
  enable_language(CUDA)
  # CMake 3.25.1 does not know that CUDA 13 has C++20.
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  endif()
  target_compile_definitions(archon_settings INTERFACE ARCHON_CUDA)
  target_compile_options(archon_settings INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall>)
endif()
if(ARCHON_SANITIZE)
  target_compile_options(archon_settings INTERFACE
    -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
  target_link_options(archon_settings INTERFACE -fsanitize=address,undefined)
  target_compile_definitions(archon_settings INTERFACE ARCHON_SANITIZE)
endif()
# What is installed does not name the folder it was built in: __FILE__ begins at the repository's top.
target_compile_options(archon_settings INTERFACE
  $<$<COMPILE_LANGUAGE:C,CXX>:-ffile-prefix-map=${PROJECT_SOURCE_DIR}/=>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-ffile-prefix-map=${PROJECT_SOURCE_DIR}/=>)

# The presets' build folders lie side by side and share their folders of headers. Compilers then get the
# same words from release and cuda nearly everywhere, and ccache compiles that once.
get_filename_component(ARCHON_SHARED_FOLDER ${PROJECT_BINARY_DIR} DIRECTORY)
if(NOT ARCHON_SHARED_FOLDER STREQUAL "${PROJECT_SOURCE_DIR}/build")
  set(ARCHON_SHARED_FOLDER ${PROJECT_BINARY_DIR})
  target_compile_options(archon_settings INTERFACE
    $<$<COMPILE_LANGUAGE:C,CXX>:-ffile-prefix-map=${PROJECT_BINARY_DIR}/=>)
endif()
