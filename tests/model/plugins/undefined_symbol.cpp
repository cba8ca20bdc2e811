// Needs a function that nobody defines, as a plugin built for another Archon would.
#include <archon/model/plugin.hpp>

void function_that_nobody_defines();

ARCHON_PLUGIN("undefined_symbol", "1.0", registry) { function_that_nobody_defines(); }
