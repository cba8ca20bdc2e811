# The documentation as a site: `cmake --build BUILD --target docs` makes BUILD/docs/html/index.html.
# Where its tools are absent it names them.
set(archon_venv ${PROJECT_SOURCE_DIR}/.venv)
if(DEFINED ENV{ARCHON_VENV})
  set(archon_venv $ENV{ARCHON_VENV})
endif()
find_program(ARCHON_PYTHON NAMES python3 HINTS ${archon_venv}/bin
  DOC "Python with the packages of tools/requirements.txt and, for tests and site, requirements-docs.txt")
add_custom_target(docs
  COMMAND ${CMAKE_COMMAND} -E env PYTHONDONTWRITEBYTECODE=1
    ${ARCHON_PYTHON} ${PROJECT_SOURCE_DIR}/docs/build_site.py ${PROJECT_BINARY_DIR}/docs
  COMMENT "Building ${PROJECT_BINARY_DIR}/docs/html/index.html" VERBATIM)
