#pragma once

#include <boost/test/unit_test.hpp>
#include <string>

#include "support/process.hpp"

namespace archon::test {

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// `text` is computed once: it may be what a run says.
#define CHECK_CONTAINS(text, part)                                      \
  do {                                                                  \
    const std::string checked = (text), wanted = (part);                \
    BOOST_CHECK_MESSAGE(::archon::test::contains(checked, wanted),      \
                        "\"" << wanted << "\" is not in: " << checked); \
  } while (false)

/// Archon refuses with exit code 2, an "archon: error:" and all of `parts` on stderr.
inline void check_refused(const ProcessResult& result, const std::vector<std::string>& parts) {
  BOOST_CHECK_EQUAL(result.exit_code, 2);
  BOOST_CHECK_EQUAL(result.out, "");
  CHECK_CONTAINS(result.err, "archon: error: ");
  for (const std::string& part : parts) CHECK_CONTAINS(result.err, part);
}

}  // namespace archon::test
