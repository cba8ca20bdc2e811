#pragma once

namespace archon {

/// The last line on stderr has no end yet: it is a bar that is redrawn. A message of the log ends
/// it first.
void leave_line_open();

/// Ends that line, where there is one.
void end_open_line();

}  // namespace archon
