#include "archon/cli/run.hpp"

int main(int argc, char** argv) { return archon::cli::run(argc, argv); }
