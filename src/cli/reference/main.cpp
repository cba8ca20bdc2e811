// archon_reference bash|man: prints what the installation has besides `archon --help`.
#include <iostream>

#include "reference.hpp"

int main(int argc, char** argv) {
  const std::string form = argc == 2 ? argv[1] : "";
  if (form == "bash") {
    std::cout << archon::cli::bash_completion();
  } else if (form == "man") {
    std::cout << archon::cli::man_page();
  } else {
    std::cerr << "usage: archon_reference bash|man\n";
    return 2;
  }
  return std::cout.flush() ? 0 : 3;
}
