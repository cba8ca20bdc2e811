#pragma once

namespace archon {

/// From now on SIGUSR1, which launchers forward to every process, no longer kills this one but
/// asks it for a checkpoint. Commands that save nothing leave it unanswered.
void catch_save_signal();

/// Whether SIGUSR1 came since the last call.
bool take_save_signal();

}  // namespace archon
