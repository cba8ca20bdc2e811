// What stands on a terminal while a run goes on.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <string>

#include "archon/base/log.hpp"
#include "archon/engine/progress.hpp"

using namespace archon;

namespace {

/// stderr is a terminal of so many columns, until text() says what was written there.
class Terminal {
 public:
  explicit Terminal(unsigned short columns, const char* kind = "xterm")
      : master_(::posix_openpt(O_RDWR | O_NOCTTY)), stderr_(::dup(STDERR_FILENO)) {
    BOOST_REQUIRE(master_ >= 0 && ::grantpt(master_) == 0 && ::unlockpt(master_) == 0);
    const int slave = ::open(::ptsname(master_), O_RDWR | O_NOCTTY);
    const winsize size = {.ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    BOOST_REQUIRE(slave >= 0 && ::ioctl(slave, TIOCSWINSZ, &size) == 0);
    ::dup2(slave, STDERR_FILENO);
    ::close(slave);
    ::setenv("TERM", kind, 1);
  }
  ~Terminal() {
    ::dup2(stderr_, STDERR_FILENO);
    ::close(stderr_);
    ::close(master_);
  }

  std::string text() const {
    ::fcntl(master_, F_SETFL, O_NONBLOCK);
    std::string all(1 << 16, '\0');
    const auto bytes = ::read(master_, all.data(), all.size());
    return all.substr(0, bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
  }

 private:
  int master_, stderr_;
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::string drawn(unsigned short columns, int64_t last_step, const char* kind = "xterm") {
  const Terminal terminal(columns, kind);
  Progress progress(true, 1, last_step);
  progress.update(1, 12.3456, 123456, 0.45);
  return terminal.text();
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_message_begins_on_a_line_of_its_own) {
  const Terminal terminal(100);
  {
    Progress progress(true, 1, 10);
    progress.update(1, 2, 100, 0.5);
    log::debug("not printed");
    log::warning("first");
    log::warning("second");
    progress.update(2, 2, 100, 0.5);
  }
  const std::string text = terminal.text();
  BOOST_TEST_CONTEXT(text) {
    BOOST_CHECK(contains(text, "left\r\narchon: "));
    BOOST_CHECK(contains(text, "first\r\narchon: "));
    BOOST_CHECK(contains(text, "second\r\n\r\033[K["));
    BOOST_CHECK(text.ends_with("left\r\n"));
  }
}

BOOST_AUTO_TEST_CASE(a_bar_fits_on_the_line) {
  const std::string start = "\r\033[K";
  const std::string status = "step 1/1000  loss 12.3456  123456 tokens/s  45 % of peak  00:00 left";
  BOOST_CHECK_EQUAL(drawn(120, 1000), start + "[----------------------------] " + status);
  BOOST_CHECK_EQUAL(drawn(80, 1000), start + "[--------] " + status);
  BOOST_CHECK_EQUAL(drawn(70, 1000), start + status);
  BOOST_CHECK_EQUAL(drawn(41, 1000), start + status.substr(0, 40));
  BOOST_CHECK_EQUAL(drawn(21, 0), start + "step 1  loss 12.3456");
  // A terminal that does not tell its width.
  BOOST_CHECK_EQUAL(drawn(0, 1000), start + "[--------] " + status);
}

BOOST_AUTO_TEST_CASE(a_terminal_that_cannot_redraw_gets_lines) {
  for (const char* kind : {"dumb", ""}) {
    const std::string text = drawn(80, 1000, kind);
    BOOST_CHECK_MESSAGE(text.starts_with("step 1/1000  loss") && text.ends_with("left\r\n"), text);
  }
}
