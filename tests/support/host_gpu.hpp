#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "archon/comm/gpu_runtime.hpp"
#include "support/host_network.hpp"

namespace archon::test {

/// A GpuRuntime of host memory, for tests alone. Streams are threads, so that what
/// is put on one is done later than the call returns; the stream that computes is the calling
/// thread itself, and waiting for an event there blocks it. NCCL's calls move real bytes between
/// the processes of the test.
///
/// It keeps the rules' book, and tells every breach on the rank that sees it:
/// - used before ready: a collective on a stream that does not wait for what was computed since the
///   stream's last `record`;
/// - freed before done: a buffer that is not kept for its stream;
/// - out of order: something put on a stream before the communicator has taken in what was to stand
///   before it, or a communicator used while it is in progress;
/// - two threads: the state asked for by one while a call of another is taken in;
/// - group nesting: sends and receives outside a group, ends without a start;
/// - mismatch: ranks whose operations differ in kind, count, type or order.
class HostGpu final : public GpuRuntime {
 public:
  enum class Fault {
    fail_at_once,  ///< the call throws
    fail_later,    ///< the communicator fails after the call returned
    hang,          ///< what the call started never ends
  };

  /// Exchanges tensors of `device`, whose memory the host can read. Collective over MPI_COMM_WORLD.
  explicit HostGpu(at::Device device = at::kCPU);
  /// Breaches that nobody took are told by `left_breaches`.
  ~HostGpu() override;

  /// The next call of this name, as in the interface, goes wrong; `reached` on another thread alone.
  void inject(const std::string& call, Fault fault);
  /// Breaches so far on this rank; none of them is told again.
  std::vector<std::string> take_breaches();
  /// Of all that were destroyed since the last call.
  static std::vector<std::string> left_breaches();

  at::Device device() const override { return device_; }
  int64_t peak_memory_bytes() const override { return 0; }
  void forget_peak_memory() override {}
  Stream current_stream() override;
  Stream create_stream() override;
  Event record(Stream stream) override;
  void wait(Stream stream, const Event& event) override;
  bool reached(const Event& event) override;
  void run_on(Stream stream, const std::function<void()>& launch) override;
  void keep_for(Stream stream, const at::Tensor& tensor) override;

  UniqueId unique_id() override;
  Comm init(const UniqueId& id, int size, int rank) override;
  void split(Comm parent, int color, int key, Comm& part) override;
  void destroy(Comm comm) override;
  void abort(Comm comm) noexcept override;
  CommState state(Comm comm) override;
  std::string failure(Comm comm) override;

  void group_start() override;
  void group_end() override;
  void send(Comm comm, const void* data, int64_t bytes, int peer, Stream stream) override;
  void receive(Comm comm, void* data, int64_t bytes, int peer, Stream stream) override;
  void all_gather(Comm comm, const void* input, void* output, int64_t bytes,
                  Stream stream) override;
  void broadcast(Comm comm, void* data, int64_t bytes, int root, Stream stream) override;
  void all_reduce(Comm comm, void* data, int64_t count, at::ScalarType type, ReduceOp op,
                  Stream stream) override;
  void reduce_scatter(Comm comm, const void* input, void* output, int64_t count,
                      at::ScalarType type, Stream stream) override;
  void reduce(Comm comm, const void* input, void* output, int64_t count, at::ScalarType type,
              int root, Stream stream) override;

 private:
  struct Point;
  struct StreamThread;
  struct Group;
  struct Call;

  void breach(std::string what);
  bool goes_wrong(const std::string& call, Fault fault);
  void fail_if_told(const std::string& call);
  StreamThread& thread_of(Stream stream);
  void put(Stream stream, const char* what, std::function<void()> work);
  Comm assemble(int rank, std::function<std::vector<int>(Group&)> meet);
  void add_call(Comm comm, Stream stream, Call call);
  void take_in(Group& group);
  HostNetwork::Sending announce(const Group& group, const Call& call, int peer) const;
  void perform(Group& group, std::vector<Call>& calls);
  void perform_collective(Group& group, const Call& call);
  bool agree(Group& group, const Announcement& own, const Message& other, int peer);

  at::Device device_;
  const std::thread::id owner_ = std::this_thread::get_id();
  HostNetwork network_;
  std::mutex mutex_;
  std::vector<std::string> breaches_;
  std::mutex faults_mutex_;  // the watchdog's thread may be told to fail, too
  std::map<std::string, Fault> faults_;
  std::vector<std::unique_ptr<StreamThread>> streams_;
  std::vector<std::unique_ptr<Group>> groups_;
  int64_t computed_ = 0;  // records of the stream that computes
  int depth_ = 0;
  int ids_ = 0;
  std::atomic<std::thread::id> caller_ = std::this_thread::get_id();  // of collectives
};

}  // namespace archon::test
