#pragma once

namespace archon::cli {

/// The whole program: parses the command line, runs the command, prints what goes wrong.
/// Returns the exit code: 0 done, 1 comparison failed, 2 wrong usage or input, 3 failed.
int run(int argc, char** argv);

}  // namespace archon::cli
