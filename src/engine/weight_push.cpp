#include "weight_push.hpp"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include "archon/base/activity.hpp"
#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/comm/watchdog.hpp"
#include "archon/model/state_dict.hpp"

namespace archon {
namespace {

constexpr auto kPoll = std::chrono::microseconds(500);
// A consumer that is about to ask learns of the end of a run that SIGTERM ends.
constexpr auto kPatienceAtEnd = std::chrono::seconds(5);

archon_push_tensor to_wire(const SafetensorsSpec& spec) {
  archon_push_tensor wire = {};
  ARCHON_ENSURE(spec.name.size() < sizeof wire.name && spec.shape.size() <= ARCHON_PUSH_DIMS,
                "{} cannot be pushed: names have up to {} bytes and tensors up to {} dims",
                spec.name, sizeof wire.name - 1, ARCHON_PUSH_DIMS);
  spec.name.copy(wire.name, sizeof wire.name - 1);
  safetensors_dtype_name(spec.dtype).copy(wire.dtype, sizeof wire.dtype - 1);
  wire.dims = std::ssize(spec.shape);
  std::ranges::copy(spec.shape, wire.shape);
  wire.bytes = static_cast<int64_t>(c10::elementSize(spec.dtype));
  for (const int64_t extent : spec.shape) wire.bytes *= extent;
  return wire;
}

}  // namespace

WeightPush::WeightPush(const WeightSyncOptions& options, const LoadedModel& loaded,
                       const Mesh& mesh, int leader,
                       std::function<bool()> ending)
    : loaded_(loaded),
      mesh_(mesh),
      ending_(std::move(ending)),
      dtype_(loaded.model->config().stored_dtype),
      bucket_bytes_(options.push_bucket_bytes) {
  for (const SafetensorsSpec& spec : tensors_of(*loaded.model, loaded.spec->adapter, dtype_))
    tensors_.push_back(to_wire(spec));
  if (mesh.world().rank() == 0) link_.emplace(leader);
}

/// On world rank 0: waits for a request, but no longer than `patience` once the run is to end;
/// whether it is there.
bool WeightPush::await_request(int64_t version, std::chrono::seconds patience) {
  const CollectiveScope scope("wait for a request", "the link to the consumer", version);
  const auto begin = std::chrono::steady_clock::now();
  while (!link_->has_request()) {
    if (ending_() && std::chrono::steady_clock::now() - begin >= patience) return false;
    std::this_thread::sleep_for(kPoll);
  }
  return true;
}

/// On world rank 0: whether the consumer asks for this version.
bool WeightPush::is_asked(int64_t version, bool wait) {
  const bool here = wait ? await_request(version, std::chrono::seconds(0)) : link_->has_request();
  if (!here) return false;
  gone_ = link_->receive_request() == ARCHON_PUSH_LEAVE;
  if (gone_) {
    log::warning("the consumer of weights has left; the run goes on without it");
  }
  return !gone_;
}

bool WeightPush::push(int64_t version, bool wait) {
  const ActivityScope sending(Activity::io, "push");
  const StageScope stage("push of weights");
  const bool asked = link_ && !gone_ && is_asked(version, wait);
  if (mesh_.world().all_reduce(int64_t{asked}, ReduceOp::max) == 0) return false;
  if (link_) send_begin(version);
  for_each_whole_tensor(
      *loaded_.model, loaded_.spec->adapter, mesh_,
      [](const Parameter& parameter) { return parameter.master(); },
      [&](const std::string&, const at::Tensor& whole) {
        if (link_) send_tensor(whole.to(dtype_).cpu().contiguous());
      });
  return true;
}

void WeightPush::send_begin(int64_t version) {
  const auto count = std::ssize(tensors_);
  link_->send({.protocol = ARCHON_PUSH_PROTOCOL,
               .ended = 0,
               .version = version,
               .tensors = count,
               .bucket_bytes = bucket_bytes_});
  link_->send(tensors_.data(), count * static_cast<int64_t>(sizeof tensors_[0]), bucket_bytes_);
  next_ = 0;
  bucket_ = {};
}

/// Sends the tensor alone, or puts it into its bucket and sends that when it is complete.
void WeightPush::send_tensor(const at::Tensor& tensor) {
  if (next_ == bucket_.end) {
    bucket_ = archon_push_bucket_from(tensors_.data(), std::ssize(tensors_), next_, bucket_bytes_);
    filled_ = 0;
  }
  ++next_;
  if (bucket_.end - bucket_.first == 1)
    return link_->send(tensor.const_data_ptr(), bucket_.bytes, bucket_bytes_);
  contents_.resize(static_cast<std::size_t>(bucket_bytes_));
  std::memcpy(contents_.data() + filled_, tensor.const_data_ptr(), tensor.nbytes());
  filled_ += archon_push_aligned(static_cast<int64_t>(tensor.nbytes()));
  if (next_ == bucket_.end) link_->send(contents_.data(), bucket_.bytes, bucket_bytes_);
}

bool WeightPush::finish(int64_t version) {
  if (!link_ || gone_) return true;
  if (!link_->has_request()) {
    log::info("waiting for the consumer's next request");
  }
  if (!await_request(version, kPatienceAtEnd)) return false;
  if (link_->receive_request() == ARCHON_PUSH_LEAVE) return true;
  archon_push_begin end = {};
  end.protocol = ARCHON_PUSH_PROTOCOL;
  end.ended = 1;
  link_->send(end);
  return true;
}

}  // namespace archon
