# archon_add_plugin(NAME SOURCES file...)
#
# A plugin of models or rewards, NAME.so, linked with Archon::archon: for plugins/ in the repository
# and, through find_package(Archon), for plugins outside it.
function(archon_add_plugin name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES")
  if(NOT arg_SOURCES)
    message(FATAL_ERROR "archon_add_plugin(${name}): SOURCES is missing; name the plugin's sources")
  endif()
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "archon_add_plugin(${name}): what is '${arg_UNPARSED_ARGUMENTS}'?")
  endif()
  add_library(${name} MODULE ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE Archon::archon)
  set_target_properties(${name} PROPERTIES PREFIX "")
endfunction()
