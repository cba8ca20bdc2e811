# Where installed files lie. To be included before there are targets and folders.
include(GNUInstallDirs)
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
  message(FATAL_ERROR "CMAKE_INSTALL_LIBDIR must be relative to the prefix, which may be moved: "
    "give lib in place of ${CMAKE_INSTALL_LIBDIR}")
endif()
set(ARCHON_INSTALL_PLUGINDIR ${CMAKE_INSTALL_LIBDIR}/archon/plugins)
set(ARCHON_INSTALL_LIBTORCHDIR ${CMAKE_INSTALL_LIBDIR}/archon/libtorch)

# Readable by all who may use the prefix, whatever the umask of the one who installs.
set(CMAKE_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE
  GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)

# archon_install_folders(FOLDER... [RULE option...]): makes the folders that are not there yet. CMake
# itself makes them by the umask, in spite of the above. RULE: more for install(CODE).
function(archon_install_folders)
  cmake_parse_arguments(arg "" "" "RULE" ${ARGN})
  install(CODE "set(folders ${arg_UNPARSED_ARGUMENTS})" ${arg_RULE})
  install(CODE [[
    foreach(folder IN LISTS folders)
      set(path "$ENV{DESTDIR}${CMAKE_INSTALL_PREFIX}")
      string(REPLACE "/" ";" parts "${folder}")
      foreach(part IN LISTS parts)
        string(APPEND path "/${part}")
        if(NOT EXISTS "${path}")
          file(MAKE_DIRECTORY "${path}")
          file(CHMOD "${path}" PERMISSIONS ${CMAKE_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS})
        endif()
      endforeach()
    endforeach()]] ${arg_RULE})
endfunction()
archon_install_folders(${CMAKE_INSTALL_BINDIR} ${CMAKE_INSTALL_INCLUDEDIR} ${ARCHON_INSTALL_PLUGINDIR}
  ${CMAKE_INSTALL_LIBDIR}/cmake/Archon ${CMAKE_INSTALL_MANDIR}/man1 ${CMAKE_INSTALL_DATADIR}/archon
  ${CMAKE_INSTALL_DATADIR}/bash-completion/completions ${CMAKE_INSTALL_DATADIR}/doc/archon)

# Where libraries of the site lie (LibTorch, MPI, HDF5) is recorded in what is installed. CMake
# leaves out what lies in the source or build tree.
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)

# archon_install(TARGET FOLDER): it finds libarchon, and a LibTorch in the prefix, from its own
# place, so that the prefix may be moved.
function(archon_install target folder)
  file(RELATIVE_PATH libraries /${folder} /${CMAKE_INSTALL_LIBDIR})
  file(RELATIVE_PATH libtorch /${folder} /${ARCHON_INSTALL_LIBTORCHDIR}/lib)
  set_target_properties(${target} PROPERTIES
    INSTALL_RPATH "$ORIGIN/${libraries};$ORIGIN/${libtorch}")
  install(TARGETS ${target} DESTINATION ${folder})
endfunction()
