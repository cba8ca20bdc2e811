#pragma once

#include "archon/engine/options.hpp"
#include "archon/mesh/mesh.hpp"

namespace archon {

/// Traces some steps on all ranks and writes one file in Chrome's trace-event format (JSON), on
/// world rank 0: a process per rank, a track per thread, asynchronous operations on tracks of their
/// own. Times are microseconds since a barrier before the first of the steps. Collective over the
/// mesh.
class Profile {
 public:
  /// `options` may name no file: then nothing happens. InputError when the file cannot be written,
  /// or when the first step to trace comes after `last_step`, the last of the run.
  Profile(const ProfileOptions& options, int64_t last_step, const Mesh& mesh);

  void before(int64_t step);
  void after(int64_t step);
  /// Of a run that ends sooner: writes the steps there were, or warns that there were none.
  void finish();

 private:
  void write() const;

  ProfileOptions options_;
  int64_t last_step_;
  const Mesh& mesh_;
  int64_t origin_ = 0;  // nanoseconds of the steady clock
  int64_t traced_ = 0;  // the last step that was traced; the file is there once it is last_step_
};

}  // namespace archon
