#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <vector>

#include "archon/comm/consumer_link.hpp"
#include "archon/engine/loaded_model.hpp"
#include "archon/engine/options.hpp"

namespace archon {

/// Sends weights to a program beside Archon (docs/weight-sync.md, push_protocol.h), whole tensors
/// in the order and type of a HuggingFace file. World rank 0 sends; no rank holds more than the
/// larger of a bucket and a tensor. All calls are collective over the mesh.
class WeightPush {
 public:
  /// `leader`: the consumer's first rank in MPI_COMM_WORLD. `ending`: whether the run is to end, and
  /// not to wait for the consumer. References must outlive it.
  WeightPush(const WeightSyncOptions& options, const LoadedModel& loaded, const Mesh& mesh,
             int leader, std::function<bool()> ending);
  /// Sends this version when the consumer asks for one: waits for that, or else leaves the version
  /// out. Nothing once the consumer said goodbye. Whether it was sent.
  bool push(int64_t version, bool wait);
  /// Answers the consumer's next request with the end. False where the run is to end and none came
  /// within seconds: the consumer knows of nothing then. `version`: the last one.
  bool finish(int64_t version);

 private:
  bool await_request(int64_t version, std::chrono::seconds patience);
  bool is_asked(int64_t version, bool wait);
  void send_begin(int64_t version);
  void send_tensor(const at::Tensor& tensor);

  const LoadedModel& loaded_;
  const Mesh& mesh_;
  std::function<bool()> ending_;
  at::ScalarType dtype_;
  int64_t bucket_bytes_;
  std::vector<archon_push_tensor> tensors_;
  bool gone_ = false;  // the consumer said goodbye

  // World rank 0 only.
  std::optional<ConsumerLink> link_;
  int64_t next_ = 0;                 // tensor
  archon_push_bucket bucket_ = {};   // that it belongs to, or the one before
  std::vector<std::byte> contents_;  // of that bucket
  int64_t filled_ = 0;
};

}  // namespace archon
