// Shows by an environment variable that its constructors ran.
#include <archon/model/plugin.hpp>
#include <cstdlib>
#include <stdexcept>

namespace {
const int constructed = setenv("ARCHON_TEST_CONSTRUCTED", "1", 1);
}

ARCHON_PLUGIN("has_constructor", "1.0", registry) {
  if (constructed != 0) throw std::runtime_error("setenv failed");
}
