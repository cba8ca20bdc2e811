#include "support/host_gpu.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>

#include "archon/base/error.hpp"

namespace archon::test {
namespace {

// Long enough for a host that does not wait to be caught.
constexpr auto kDelay = std::chrono::microseconds(200);
constexpr auto kPause = std::chrono::milliseconds(1);
// NCCL takes calls in behind the caller's back; so many looks at the state find it at work.
constexpr int kLooksInProgress = 2;
// Of the communicators that one rank made the ids of; each id has room for its splits.
constexpr int kFirstTag = 100, kTagsPerRank = 1'000'000, kTagsPerId = 400, kTagsPerSplit = 20;

std::vector<std::string> left;  // by those that were destroyed

/// Where there is nothing to copy, there may be no memory.
void copy_bytes(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

/// Rounds at every hop, as NCCL does.
at::Tensor reduce_in_turn(const std::vector<at::Tensor>& parts, ReduceOp op) {
  at::Tensor result = parts[0].clone();
  for (std::size_t i = 1; i < parts.size(); ++i)
    result = op == ReduceOp::sum   ? result + parts[i]
             : op == ReduceOp::max ? at::maximum(result, parts[i])
                                   : at::minimum(result, parts[i]);
  return result;
}

}  // namespace

/// A point in a stream.
struct HostGpu::Point {
  std::atomic<bool> reached{false};
  int64_t computed = 0;  ///< which record of the computing stream; 0 = of another stream

  void reach() {
    reached = true;
    reached.notify_all();
  }
};

struct HostGpu::StreamThread {
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<std::function<void()>> work;
  bool stopping = false;
  std::vector<at::Tensor> kept;            // until its next record
  int64_t waits_for = 0, recorded_at = 0;  // records of the computing stream
  Group* not_taken_in = nullptr;           // whose calls are yet to be put here
  std::thread thread;

  void run() {
    std::unique_lock lock(mutex);
    while (true) {
      wake.wait(lock, [this] { return stopping || !work.empty(); });
      if (work.empty()) return;
      const std::function<void()> next = std::move(work.front());
      work.pop_front();
      lock.unlock();
      next();
      lock.lock();
    }
  }

  bool keeps(const void* data, int64_t bytes) const {
    const auto* const begin = static_cast<const char*>(data);
    return std::any_of(kept.begin(), kept.end(), [&](const at::Tensor& tensor) {
      const auto* const start = static_cast<const char*>(tensor.storage().data());
      return begin >= start && begin + bytes <= start + tensor.storage().nbytes();
    });
  }
};

/// One call of NCCL, as it was made.
struct HostGpu::Call {
  enum Kind { kSend, kReceive, kAllGather, kBroadcast, kAllReduce, kReduceScatter, kReduce };
  Kind kind;
  const char* name;
  const void* input;
  void* output;
  int64_t bytes;  ///< of the input; of the output where it receives
  int peer_or_root = 0;
  at::ScalarType type = at::kByte;
  ReduceOp op = ReduceOp::sum;
  Announcement announcement = {};
};

/// A communicator.
struct HostGpu::Group {
  std::vector<int> members;  // world rank of each rank
  int rank = 0;
  int tag = 0;
  std::atomic<bool> given_up{false}, made{false}, failed{false};
  std::string failure;
  std::thread meeting;
  std::vector<Call> calls;  // of the open group, or on their way to the stream
  Stream stream = nullptr;
  std::atomic<int> looks_left{0};
  int64_t collectives = 0;
  int splits = 0;
  /// Of a split under way: where its part is wanted, and the part.
  struct Split {
    Comm* place;
    Group* part;
    bool wanted;
  };
  std::optional<Split> split;
  std::atomic<bool> hangs{false}, fails{false};
};

HostGpu::HostGpu(at::Device device) : device_(device) {}

HostGpu::~HostGpu() {
  for (const auto& group : groups_) {
    if (!group->made) group->given_up = true;
    if (group->meeting.joinable()) group->meeting.join();
  }
  for (const auto& stream : streams_) {
    {
      const std::lock_guard lock(stream->mutex);
      stream->stopping = true;
    }
    stream->wake.notify_one();
    stream->thread.join();
  }
  left.insert(left.end(), breaches_.begin(), breaches_.end());
}

std::vector<std::string> HostGpu::left_breaches() { return std::exchange(left, {}); }

void HostGpu::inject(const std::string& call, Fault fault) { faults_[call] = fault; }

std::vector<std::string> HostGpu::take_breaches() {
  const std::lock_guard lock(mutex_);
  return std::exchange(breaches_, {});
}

void HostGpu::breach(std::string what) {
  const std::lock_guard lock(mutex_);
  breaches_.push_back(std::move(what));
}

bool HostGpu::goes_wrong(const std::string& call, Fault fault) {
  const std::lock_guard lock(faults_mutex_);
  const auto found = faults_.find(call);
  if (found == faults_.end() || found->second != fault) return false;
  faults_.erase(found);
  return true;
}

void HostGpu::fail_if_told(const std::string& call) {
  if (goes_wrong(call, Fault::fail_at_once))
    throw_runtime_failure(fmt::format("{} failed: unhandled system error (as told)", call));
}

// --- streams and events ----------------------------------------------------------------------

HostGpu::Stream HostGpu::current_stream() {
  caller_ = std::this_thread::get_id();  // autograd computes on a thread of its own
  return this;
}

HostGpu::Stream HostGpu::create_stream() {
  fail_if_told("create_stream");
  auto& stream = streams_.emplace_back(std::make_unique<StreamThread>());
  stream->thread = std::thread([s = stream.get()] { s->run(); });
  return stream.get();
}

HostGpu::StreamThread& HostGpu::thread_of(Stream stream) {
  return *static_cast<StreamThread*>(stream);
}

void HostGpu::put(Stream stream, const char* what, std::function<void()> work) {
  StreamThread& thread = thread_of(stream);
  if (thread.not_taken_in != nullptr)
    breach(fmt::format("out of order: {} was put on a stream before NCCL had put its calls there",
                       what));
  {
    const std::lock_guard lock(thread.mutex);
    thread.work.push_back(std::move(work));
  }
  thread.wake.notify_one();
}

HostGpu::Event HostGpu::record(Stream stream) {
  fail_if_told("record");
  auto point = std::make_shared<Point>();
  if (stream == current_stream()) {
    point->reach();
    point->computed = ++computed_;
    return point;
  }
  StreamThread& thread = thread_of(stream);
  thread.recorded_at = computed_;
  // What is kept may go once the stream has come here.
  put(stream, "record", [point, kept = std::exchange(thread.kept, {})] { point->reach(); });
  return point;
}

void HostGpu::wait(Stream stream, const Event& event) {
  fail_if_told("wait");
  const auto point = std::static_pointer_cast<Point>(event);
  if (stream == current_stream()) {
    point->reached.wait(false);
    return;
  }
  thread_of(stream).waits_for = std::max(thread_of(stream).waits_for, point->computed);
  put(stream, "wait", [point] { point->reached.wait(false); });
}

bool HostGpu::reached(const Event& event) {
  if (std::this_thread::get_id() != owner_) fail_if_told("reached");
  return std::static_pointer_cast<Point>(event)->reached;
}

void HostGpu::run_on(Stream stream, const std::function<void()>& launch) {
  // Late enough for those to be seen who do not wait for it.
  put(stream, "a tensor operation", [launch] {
    std::this_thread::sleep_for(kDelay);
    launch();
  });
}

void HostGpu::keep_for(Stream stream, const at::Tensor& tensor) {
  thread_of(stream).kept.push_back(tensor);
}

// --- communicators ---------------------------------------------------------------------------

HostGpu::UniqueId HostGpu::unique_id() {
  fail_if_told("unique_id");
  UniqueId id = {};
  const int values[] = {network_.rank(),
                        kFirstTag + network_.rank() * kTagsPerRank + kTagsPerId * ids_++};
  std::memcpy(id.data(), values, sizeof values);
  return id;
}

// `meet` gives the members, and the group's tag; it runs beside the caller, as NCCL's own does.
HostGpu::Comm HostGpu::assemble(int rank, std::function<std::vector<int>(Group&)> meet) {
  Group& group = *groups_.emplace_back(std::make_unique<Group>());
  group.rank = rank;
  group.meeting = std::thread([&group, meet = std::move(meet)] {
    group.members = meet(group);
    if (!group.given_up) group.made = true;
  });
  return &group;
}

HostGpu::Comm HostGpu::init(const UniqueId& id, int size, int rank) {
  fail_if_told("init");
  const bool hangs = goes_wrong("init", Fault::hang);
  int values[2];
  std::memcpy(values, id.data(), sizeof values);
  return assemble(rank, [=, this, root = values[0], tag = values[1]](Group& group) {
    group.tag = tag;
    std::vector<int> members(size);
    members[rank] = network_.rank();
    // Everyone tells the root who it is; the root tells everyone.
    if (hangs) {
      while (!group.given_up) std::this_thread::sleep_for(kPause);
    } else if (network_.rank() == root) {
      for (int i = 1; i < size; ++i) {
        const Message hello = network_.receive(MPI_ANY_SOURCE, tag, group.given_up);
        members[hello.announcement.kind] = static_cast<int>(hello.announcement.number);
      }
      Message table;
      table.bytes.resize(size * sizeof(int));
      copy_bytes(table.bytes.data(), members.data(), table.bytes.size());
      for (const int member : members)
        if (member != root) network_.send(table, member, tag).wait(group.given_up);
    } else {
      Message hello;
      hello.announcement.kind = rank;
      hello.announcement.number = network_.rank();
      network_.send(hello, root, tag).wait(group.given_up);
      const Message table = network_.receive(root, tag, group.given_up);
      copy_bytes(members.data(), table.bytes.data(), table.bytes.size());
    }
    return members;
  });
}

void HostGpu::split(Comm parent_comm, int color, int key, Comm& place) {
  fail_if_told("split");
  Group& parent = *static_cast<Group*>(parent_comm);
  if (state(parent_comm) != CommState::ready)
    breach("out of order: split of a communicator in progress");
  // All tell all; every color's tag follows from the parent's, and from how often it was split.
  const int first_tag = parent.tag + kTagsPerSplit * ++parent.splits;
  const Comm part = assemble(key, [=, this, &parent](Group& group) {
    std::vector<HostNetwork::Sending> sent;
    Message hello;
    hello.announcement.kind = color;
    hello.announcement.root = key;
    for (const int member : parent.members)
      if (member != network_.rank()) sent.push_back(network_.send(hello, member, first_tag));
    std::map<int, int> by_key = {{key, network_.rank()}};
    for (const int member : parent.members) {
      if (member == network_.rank()) continue;
      const Message other = network_.receive(member, first_tag, group.given_up);
      if (other.announcement.kind == color)
        by_key[static_cast<int>(other.announcement.root)] = member;
    }
    for (auto& sending : sent) sending.wait(group.given_up);
    if (color == kNoColor) return std::vector<int>();
    group.tag = first_tag + 1 + color;
    std::vector<int> members;
    for (const auto& [_, member] : by_key) members.push_back(member);
    return members;
  });
  // As NCCL does it: the caller's variable is written only when the parent has settled.
  parent.split = {&place, static_cast<Group*>(part), color != kNoColor};
}

void HostGpu::destroy(Comm comm) {
  Group& group = *static_cast<Group*>(comm);
  if (group.meeting.joinable()) group.meeting.join();
}

void HostGpu::abort(Comm comm) noexcept { static_cast<Group*>(comm)->given_up = true; }

HostGpu::CommState HostGpu::state(Comm comm) {
  Group& group = *static_cast<Group*>(comm);
  if (group.failed) return CommState::failed;
  if (!group.made) return CommState::in_progress;
  const bool busy = group.split || group.looks_left > 0;
  if (busy && std::this_thread::get_id() != caller_) {
    breach("two threads: the state is asked for while another's call is taken in");
    return CommState::in_progress;
  }
  if (group.split) {
    if (!group.split->part->made) return CommState::in_progress;
    *group.split->place = group.split->wanted ? group.split->part : nullptr;
    group.split.reset();
  }
  if (group.looks_left > 0) {
    if (--group.looks_left > 0) return CommState::in_progress;
    take_in(group);
  }
  return group.failed ? CommState::failed : CommState::ready;
}

std::string HostGpu::failure(Comm comm) { return static_cast<Group*>(comm)->failure; }

// --- calls -----------------------------------------------------------------------------------

void HostGpu::group_start() { ++depth_; }

void HostGpu::group_end() {
  fail_if_told("group_end");
  if (depth_ == 0) {
    breach("group nesting: a group ends that was not started");
    return;
  }
  --depth_;
}

void HostGpu::add_call(Comm comm, Stream stream, Call call) {
  fail_if_told(call.name);
  Group& group = *static_cast<Group*>(comm);
  StreamThread& thread = thread_of(stream);
  if (!group.made) breach(fmt::format("out of order: {} on a communicator in progress", call.name));
  if (depth_ == 0 && (call.kind == Call::kSend || call.kind == Call::kReceive))
    breach(fmt::format("group nesting: {} outside a group", call.name));
  if (thread.waits_for <= thread.recorded_at)
    breach(
        fmt::format("used before ready: {} does not wait for the stream that computes", call.name));
  const auto size = static_cast<int64_t>(group.members.size());
  const bool whole_out = call.kind == Call::kAllGather;
  const int64_t out_bytes = whole_out                           ? call.bytes * size
                            : call.kind == Call::kReduceScatter ? call.bytes / size
                                                                : call.bytes;
  if ((call.input != nullptr && !thread.keeps(call.input, call.bytes)) ||
      (call.output != nullptr && !thread.keeps(call.output, out_bytes)))
    breach(fmt::format("freed before done: a buffer of {} is not kept for its stream", call.name));
  if (goes_wrong(call.name, Fault::fail_later)) group.fails = true;
  if (goes_wrong(call.name, Fault::hang)) group.hangs = true;
  if (!group.calls.empty() && group.stream != stream)
    breach("out of order: calls of one group on two streams");
  if (depth_ == 0 && !group.calls.empty())
    breach(fmt::format("out of order: {} before NCCL had taken in the calls before it", call.name));
  const bool point_to_point = call.kind == Call::kSend || call.kind == Call::kReceive;
  call.announcement = {.kind = point_to_point ? Call::kSend : call.kind,
                       .bytes = call.bytes,
                       .type = static_cast<int64_t>(call.type),
                       .reduce = static_cast<int64_t>(call.op),
                       .root = point_to_point ? 0 : call.peer_or_root};
  group.calls.push_back(call);
  group.stream = stream;
  group.looks_left = kLooksInProgress;
  thread.not_taken_in = &group;
}

void HostGpu::take_in(Group& group) {
  std::vector<Call> calls = std::exchange(group.calls, {});
  thread_of(group.stream).not_taken_in = nullptr;
  put(group.stream, "calls", [this, &group, calls]() mutable {
    std::this_thread::sleep_for(kDelay);
    if (group.fails) {
      group.failure = "remote process exited or there was a network error (as told)";
      group.failed = true;
    }
    while ((group.hangs || group.failed) && !group.given_up) std::this_thread::sleep_for(kPause);
    perform(group, calls);
  });
}

bool HostGpu::agree(Group& group, const Announcement& own, const Message& other, int peer) {
  if (group.given_up || own == other.announcement) return !group.given_up;
  const auto say = [](const Announcement& a) {
    return fmt::format("kind {}, {} bytes, type {}, reduction {}, root {}, number {}", a.kind,
                       a.bytes, a.type, a.reduce, a.root, a.number);
  };
  breach(fmt::format("mismatch: rank {} has ({}), rank {} has ({})", group.rank, say(own), peer,
                     say(other.announcement)));
  group.failure = "invalid usage";
  group.failed = true;
  return false;
}

HostNetwork::Sending HostGpu::announce(const Group& group, const Call& call, int peer) const {
  const auto* const data = static_cast<const char*>(call.input);
  return network_.send({call.announcement, {data, data + call.bytes}}, group.members[peer],
                       group.tag);
}

void HostGpu::perform(Group& group, std::vector<Call>& calls) {
  std::vector<HostNetwork::Sending> sent;
  for (const Call& call : calls)
    if (call.kind == Call::kSend) sent.push_back(announce(group, call, call.peer_or_root));
  for (Call& call : calls)
    if (call.kind == Call::kReceive) {
      const Message message =
          network_.receive(group.members[call.peer_or_root], group.tag, group.given_up);
      if (agree(group, call.announcement, message, call.peer_or_root))
        copy_bytes(call.output, message.bytes.data(), message.bytes.size());
    } else if (call.kind != Call::kSend) {
      call.announcement.number = ++group.collectives;
      perform_collective(group, call);
    }
  for (auto& sending : sent) sending.wait(group.given_up);
}

// Everyone gives everyone all it has; slow, and plain.
void HostGpu::perform_collective(Group& group, const Call& call) {
  const auto size = static_cast<int>(group.members.size());
  std::vector<HostNetwork::Sending> sent;
  for (int peer = 0; peer < size; ++peer)
    if (peer != group.rank) sent.push_back(announce(group, call, peer));
  const auto* const own = static_cast<const char*>(call.input);
  std::vector<Message> all(size);
  all[group.rank].bytes.assign(own, own + call.bytes);
  bool agreed = true;
  for (int peer = 0; peer < size; ++peer) {
    if (peer == group.rank) continue;
    all[peer] = network_.receive(group.members[peer], group.tag, group.given_up);
    agreed = agreed && agree(group, call.announcement, all[peer], peer);
  }
  for (auto& sending : sent) sending.wait(group.given_up);
  if (!agreed) return;

  auto* const output = static_cast<char*>(call.output);
  if (call.kind == Call::kAllGather) {
    for (int peer = 0; peer < size; ++peer)
      copy_bytes(output + peer * call.bytes, all[peer].bytes.data(), call.bytes);
    return;
  }
  if (call.kind == Call::kBroadcast) {
    copy_bytes(output, all[call.peer_or_root].bytes.data(), call.bytes);
    return;
  }
  std::vector<at::Tensor> parts;
  for (Message& message : all)
    parts.push_back(at::from_blob(message.bytes.data(),
                                  {call.bytes / static_cast<int64_t>(c10::elementSize(call.type))},
                                  call.type));
  const at::Tensor reduced = reduce_in_turn(parts, call.op);
  const auto* const result = static_cast<const char*>(reduced.const_data_ptr());
  if (call.kind == Call::kAllReduce) copy_bytes(output, result, call.bytes);
  if (call.kind == Call::kReduce && call.peer_or_root == group.rank)
    copy_bytes(output, result, call.bytes);
  if (call.kind == Call::kReduceScatter)
    copy_bytes(output, result + group.rank * (call.bytes / size), call.bytes / size);
}

void HostGpu::send(Comm comm, const void* data, int64_t bytes, int peer, Stream stream) {
  add_call(comm, stream, {Call::kSend, "send", data, nullptr, bytes, peer});
}

void HostGpu::receive(Comm comm, void* data, int64_t bytes, int peer, Stream stream) {
  add_call(comm, stream, {Call::kReceive, "receive", nullptr, data, bytes, peer});
}

void HostGpu::all_gather(Comm comm, const void* input, void* output, int64_t bytes, Stream stream) {
  add_call(comm, stream, {Call::kAllGather, "all_gather", input, output, bytes});
}

void HostGpu::broadcast(Comm comm, void* data, int64_t bytes, int root, Stream stream) {
  add_call(comm, stream, {Call::kBroadcast, "broadcast", data, data, bytes, root});
}

void HostGpu::all_reduce(Comm comm, void* data, int64_t count, at::ScalarType type, ReduceOp op,
                         Stream stream) {
  const auto bytes = count * static_cast<int64_t>(c10::elementSize(type));
  add_call(comm, stream, {Call::kAllReduce, "all_reduce", data, data, bytes, 0, type, op});
}

void HostGpu::reduce_scatter(Comm comm, const void* input, void* output, int64_t count,
                             at::ScalarType type, Stream stream) {
  const auto bytes = count * static_cast<int64_t>(c10::elementSize(type)) *
                     static_cast<int64_t>(static_cast<Group*>(comm)->members.size());
  add_call(comm, stream, {Call::kReduceScatter, "reduce_scatter", input, output, bytes, 0, type});
}

void HostGpu::reduce(Comm comm, const void* input, void* output, int64_t count, at::ScalarType type,
                     int root, Stream stream) {
  const auto bytes = count * static_cast<int64_t>(c10::elementSize(type));
  add_call(comm, stream, {Call::kReduce, "reduce", input, output, bytes, root, type});
}

}  // namespace archon::test
