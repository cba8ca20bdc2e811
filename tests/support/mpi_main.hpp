#pragma once

#include "archon/comm/mpi.hpp"

/// MPI of the test program, made by its main().
archon::MpiEnvironment& test_environment();
