# Golden tests of a site's own models, for CTest. For projects beside Archon, which include this
# file by its path; docs/goldens.md shows a whole one.
#
# archon_add_golden(NAME GOLDEN file COMMAND train|forward option...
#   [MESHES DPxCPxTP...] [TOLERANCES file] [DIFF option...] [TIMEOUT seconds])
#
#   GOLDEN      HDF5 file that is kept; the target record_NAME makes it, on one rank
#   COMMAND     what archon computes, without mesh and output
#   MESHES      to compare with it [1x1x1]
#   TOLERANCES  file for archon diff --tolerances
#   DIFF        more options of archon diff
#   TIMEOUT     of each test, in seconds [600]
#
# For each mesh it adds the tests NAME.DPxCPxTP.run and NAME.DPxCPxTP.diff, with the label golden.
# They run in the folder of the CMakeLists.txt that calls this, so that options may name files
# relative to it. The target record_goldens makes all goldens.
#
#   ARCHON_PROGRAM    archon, built or installed
#   ARCHON_LAUNCHER   what starts ranks, their number following: "srun;--mpi=pmix;-n" [mpiexec;-n]
find_program(ARCHON_PROGRAM archon REQUIRED)
set(ARCHON_LAUNCHER "mpiexec;-n" CACHE STRING "Command that starts ranks; their number follows")

# A command that computes on a mesh and writes `file`; what else it leaves goes to `folder`.
function(archon_golden_command result mesh file folder)
  if(NOT mesh MATCHES "^([1-9][0-9]*)x([1-9][0-9]*)x([1-9][0-9]*)$")
    message(FATAL_ERROR "archon_add_golden: the mesh '${mesh}' is not DPxCPxTP, as in 1x2x2")
  endif()
  set(axes --dp ${CMAKE_MATCH_1} --cp ${CMAKE_MATCH_2} --tp ${CMAKE_MATCH_3})
  math(EXPR ranks "${CMAKE_MATCH_1} * ${CMAKE_MATCH_2} * ${CMAKE_MATCH_3}")
  list(GET ARGN 0 command)
  if(command STREQUAL "train")
    set(output --record ${file} --output ${folder}/run --save-hf off)
  elseif(command STREQUAL "forward")
    set(output --output ${file})
  else()
    message(FATAL_ERROR "archon_add_golden: COMMAND is train or forward, not '${command}'")
  endif()
  set(${result} sh -c "rm -rf \"$0\" && mkdir -p \"$0\" && exec \"$@\"" ${folder}
    ${ARCHON_LAUNCHER} ${ranks} ${ARCHON_PROGRAM} ${ARGN} ${axes} ${output} PARENT_SCOPE)
endfunction()

function(archon_add_golden name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "GOLDEN;TOLERANCES;TIMEOUT" "COMMAND;MESHES;DIFF")
  foreach(needed GOLDEN COMMAND)
    if(NOT arg_${needed})
      message(FATAL_ERROR "archon_add_golden(${name}): ${needed} is missing")
    endif()
  endforeach()
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "archon_add_golden(${name}): what is '${arg_UNPARSED_ARGUMENTS}'?")
  endif()
  if(NOT arg_MESHES)
    set(arg_MESHES 1x1x1)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 600)
  endif()
  if(arg_TOLERANCES)
    list(APPEND arg_DIFF --tolerances ${arg_TOLERANCES})
  endif()
  set(work ${CMAKE_CURRENT_BINARY_DIR}/goldens/${name})

  archon_golden_command(record 1x1x1 ${arg_GOLDEN} ${work}/record ${arg_COMMAND})
  add_custom_target(record_${name} COMMAND ${record} VERBATIM USES_TERMINAL
    WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR})
  if(NOT TARGET record_goldens)
    add_custom_target(record_goldens)
  endif()
  add_dependencies(record_goldens record_${name})

  foreach(mesh ${arg_MESHES})
    set(test ${name}.${mesh})
    archon_golden_command(run ${mesh} ${work}/${mesh}/result.h5 ${work}/${mesh} ${arg_COMMAND})
    add_test(NAME ${test}.run COMMAND ${run} WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR})
    add_test(NAME ${test}.diff WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}
      COMMAND ${ARCHON_PROGRAM} diff ${arg_GOLDEN} ${work}/${mesh}/result.h5 ${arg_DIFF})
    string(REPLACE "x" "*" ranks ${mesh})
    math(EXPR ranks "${ranks}")
    set_tests_properties(${test}.run PROPERTIES FIXTURES_SETUP ${test} PROCESSORS ${ranks})
    set_tests_properties(${test}.diff PROPERTIES FIXTURES_REQUIRED ${test})
    set_tests_properties(${test}.run ${test}.diff PROPERTIES LABELS golden TIMEOUT ${arg_TIMEOUT})
  endforeach()
endfunction()
