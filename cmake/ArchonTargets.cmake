# Sources whose RecordFunction must be LibTorch's own: without NDEBUG, with which LibTorch is built, the
# header gives it one member more.
function(archon_record_as_libtorch)
  set_source_files_properties(${ARGN} PROPERTIES COMPILE_DEFINITIONS $<$<CONFIG:Debug>:NDEBUG>)
endfunction()

# archon_add_layer(NAME USES layer... LINKS library... SOURCES file...)
#
# One object library per layer. A layer sees its own public headers and those of the layers it
# names in USES (and theirs), nothing else: each layer's headers are offered through a folder of
# its own, so an include that the layering forbids does not compile.
set(ARCHON_LAYERS "" CACHE INTERNAL "")
function(archon_add_layer name)
  cmake_parse_arguments(arg "" "" "USES;LINKS;SOURCES" ${ARGN})
  set(include ${ARCHON_SHARED_FOLDER}/layer-include/${name})
  file(MAKE_DIRECTORY ${include}/archon)
  file(CREATE_LINK ${PROJECT_SOURCE_DIR}/include/archon/${name} ${include}/archon/${name} SYMBOLIC)

  add_library(archon_${name}_headers INTERFACE)
  target_include_directories(archon_${name}_headers INTERFACE ${include})
  target_link_libraries(archon_${name}_headers INTERFACE ${arg_LINKS})
  foreach(layer ${arg_USES})
    target_link_libraries(archon_${name}_headers INTERFACE archon_${layer}_headers)
  endforeach()

  add_library(archon_${name} OBJECT ${arg_SOURCES})
  target_link_libraries(archon_${name} PRIVATE archon_settings archon_${name}_headers)
  set(ARCHON_LAYERS ${ARCHON_LAYERS} ${name} CACHE INTERNAL "")
endfunction()

# The program test_NAME of Boost.Test, from source files.
function(archon_add_test_program name)
  add_executable(test_${name} ${ARGN})
  target_link_libraries(test_${name} PRIVATE archon_settings archon_test_support)
  target_compile_options(test_${name} PRIVATE $<$<CONFIG:Release>:-O1>)  # compiled more than run
  set_target_properties(test_${name} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests/bin)
endfunction()

# archon_add_cuda_test(NAME file...): a test on GPUs, built where CUDA is. None of CTest's, since it needs
# a GPU for every rank: job_scripts/gpu_check.sh runs it.
function(archon_add_cuda_test name)
  if(ARCHON_CUDA)
    archon_add_test_program(${name} ${ARGN})
    target_compile_definitions(test_${name} PRIVATE ARCHON_TEST_CUDA)
  endif()
endfunction()

# archon_add_test(NAME SOURCES file... [RANKS n...] [TIMEOUT seconds] [LABELS label...])
#
# A Boost.Test program, registered once per entry of RANKS as NAME.n and started with mpiexec.
function(archon_add_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "SOURCES;RANKS;LABELS" ${ARGN})
  if(NOT arg_RANKS)
    set(arg_RANKS 1)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  archon_add_test_program(${name} ${arg_SOURCES})
  foreach(ranks ${arg_RANKS})
    add_test(NAME ${name}.${ranks} COMMAND ${ARCHON_MPIEXEC} -n ${ranks}
      $<TARGET_FILE:test_${name}> --log_level=message --report_level=no)
    set_tests_properties(${name}.${ranks} PROPERTIES
      TIMEOUT ${arg_TIMEOUT} PROCESSORS ${ranks} LABELS "${arg_LABELS};ranks${ranks}"
      ENVIRONMENT "${ARCHON_TEST_ENVIRONMENT}")
  endforeach()
endfunction()
