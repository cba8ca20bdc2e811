// NCCL and CUDA behind GpuRuntime. One call each, so that there is little here which only a machine
// with a GPU can test.
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <nccl.h>

#include <cstdlib>
#include <cstring>

#include "archon/base/error.hpp"
#include "cuda_platform.hpp"

namespace archon {
namespace {

[[noreturn]] void throw_cuda_error(cudaError_t code, const char* call, const char* file, int line) {
  throw_runtime_failure(
      fmt::format("{} failed: {} ({}:{})", call, cudaGetErrorString(code), file, line));
}

[[noreturn]] void throw_nccl_error(ncclResult_t code, const char* call, const char* file,
                                   int line) {
  throw_runtime_failure(
      fmt::format("{} failed: {} ({}:{})", call, ncclGetErrorString(code), file, line));
}

#define ARCHON_CUDA_CALL(call)                                                              \
  do {                                                                                      \
    const cudaError_t archon_cuda_code = (call);                                            \
    if (archon_cuda_code != cudaSuccess)                                                    \
      throw_cuda_error(archon_cuda_code, #call, __FILE__, __LINE__);                        \
  } while (false)

// A communicator that does not block answers "in progress"; GpuRuntime::state tells the rest.
#define ARCHON_NCCL_CALL(call)                                                              \
  do {                                                                                      \
    const ncclResult_t archon_nccl_code = (call);                                           \
    if (archon_nccl_code != ncclSuccess && archon_nccl_code != ncclInProgress)              \
      throw_nccl_error(archon_nccl_code, #call, __FILE__, __LINE__);                        \
  } while (false)

ncclDataType_t nccl_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return ncclFloat32;
    case at::kDouble:
      return ncclFloat64;
    case at::kInt:
      return ncclInt32;
    case at::kLong:
      return ncclInt64;
    case at::kByte:
      return ncclUint8;
    case at::kChar:
      return ncclInt8;
    default:
      throw_runtime_failure(fmt::format("NCCL does not add tensors of {}", c10::toString(type)));
  }
}

ncclRedOp_t nccl_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return ncclSum;
    case ReduceOp::max:
      return ncclMax;
    case ReduceOp::min:
      return ncclMin;
  }
  throw_runtime_failure("no such reduction");
}

ncclConfig_t nccl_config() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  config.splitShare = 1;
  return config;
}

cudaStream_t cuda_stream(GpuRuntime::Stream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t cuda_event(const GpuRuntime::Event& event) {
  return static_cast<cudaEvent_t>(event.get());
}
ncclComm_t nccl_comm(GpuRuntime::Comm comm) { return static_cast<ncclComm_t>(comm); }

class CudaRuntime final : public GpuRuntime {
 public:
  explicit CudaRuntime(int device) : device_(static_cast<c10::DeviceIndex>(device)) {
    // The same inputs give the same bits, on a GPU too. cuBLAS reads the variable at its first use.
    setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*replace=*/0);
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
    ARCHON_CUDA_CALL(cudaSetDevice(device));
    at::globalContext().lazyInitDevice(at::kCUDA);  // its allocator is asked before the first tensor
  }

  at::Device device() const override { return {at::kCUDA, device_}; }

  int64_t peak_memory_bytes() const override {
    // The first of the three statistics counts all pools.
    return c10::cuda::CUDACachingAllocator::getDeviceStats(device_).allocated_bytes[0].peak;
  }

  void forget_peak_memory() override {
    c10::cuda::CUDACachingAllocator::resetPeakStats(device_);
  }

  Stream current_stream() override { return c10::cuda::getCurrentCUDAStream(device_).stream(); }

  // LibTorch's own pool: its allocator knows these streams.
  Stream create_stream() override {
    return c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device_).stream();
  }

  Event record(Stream stream) override {
    cudaEvent_t created = nullptr;
    ARCHON_CUDA_CALL(cudaEventCreateWithFlags(&created, cudaEventDisableTiming));
    Event event(created, [](void* owned) { cudaEventDestroy(static_cast<cudaEvent_t>(owned)); });
    ARCHON_CUDA_CALL(cudaEventRecord(created, cuda_stream(stream)));
    return event;
  }

  void wait(Stream stream, const Event& event) override {
    ARCHON_CUDA_CALL(cudaStreamWaitEvent(cuda_stream(stream), cuda_event(event), 0));
  }

  bool reached(const Event& event) override {
    // The watchdog's thread asks, too, and would make a context of its own on the first GPU.
    ARCHON_CUDA_CALL(cudaSetDevice(device_));
    const cudaError_t code = cudaEventQuery(cuda_event(event));
    if (code == cudaErrorNotReady) return false;
    ARCHON_CUDA_CALL(code);
    return true;
  }

  void run_on(Stream stream, const std::function<void()>& launch) override {
    const c10::cuda::CUDAStreamGuard guard(torch_stream(stream));
    launch();
  }

  void keep_for(Stream stream, const at::Tensor& tensor) override {
    c10::cuda::CUDACachingAllocator::recordStream(tensor.storage().data_ptr(),
                                                  torch_stream(stream));
  }

  UniqueId unique_id() override {
    ncclUniqueId id;
    ARCHON_NCCL_CALL(ncclGetUniqueId(&id));
    static_assert(sizeof id.internal == sizeof(UniqueId));
    UniqueId bytes;
    std::memcpy(bytes.data(), id.internal, bytes.size());
    return bytes;
  }

  Comm init(const UniqueId& id, int size, int rank) override {
    ncclUniqueId nccl_id;
    std::memcpy(nccl_id.internal, id.data(), id.size());
    ncclConfig_t config = nccl_config();
    ncclComm_t comm = nullptr;
    ARCHON_NCCL_CALL(ncclCommInitRankConfig(&comm, size, nccl_id, rank, &config));
    return comm;
  }

  void split(Comm parent, int color, int key, Comm& part) override {
    ncclConfig_t config = nccl_config();
    ARCHON_NCCL_CALL(ncclCommSplit(nccl_comm(parent), color, key,
                                   reinterpret_cast<ncclComm_t*>(&part), &config));
  }

  void destroy(Comm comm) override {
    ARCHON_NCCL_CALL(ncclCommFinalize(nccl_comm(comm)));
    while (state(comm) == CommState::in_progress) {
    }
    ARCHON_NCCL_CALL(ncclCommDestroy(nccl_comm(comm)));
  }

  void abort(Comm comm) noexcept override { ncclCommAbort(nccl_comm(comm)); }

  CommState state(Comm comm) override {
    switch (async_error(comm)) {
      case ncclSuccess:
        return CommState::ready;
      case ncclInProgress:
        return CommState::in_progress;
      default:
        return CommState::failed;
    }
  }

  std::string failure(Comm comm) override {
    return fmt::format("{} ({})", ncclGetErrorString(async_error(comm)),
                       ncclGetLastError(nccl_comm(comm)));
  }

  void group_start() override { ARCHON_NCCL_CALL(ncclGroupStart()); }
  void group_end() override { ARCHON_NCCL_CALL(ncclGroupEnd()); }

  void send(Comm comm, const void* data, int64_t bytes, int peer, Stream stream) override {
    ARCHON_NCCL_CALL(
        ncclSend(data, bytes, ncclUint8, peer, nccl_comm(comm), cuda_stream(stream)));
  }

  void receive(Comm comm, void* data, int64_t bytes, int peer, Stream stream) override {
    ARCHON_NCCL_CALL(
        ncclRecv(data, bytes, ncclUint8, peer, nccl_comm(comm), cuda_stream(stream)));
  }

  void all_gather(Comm comm, const void* input, void* output, int64_t bytes,
                  Stream stream) override {
    ARCHON_NCCL_CALL(
        ncclAllGather(input, output, bytes, ncclUint8, nccl_comm(comm), cuda_stream(stream)));
  }

  void broadcast(Comm comm, void* data, int64_t bytes, int root, Stream stream) override {
    ARCHON_NCCL_CALL(ncclBroadcast(data, data, bytes, ncclUint8, root, nccl_comm(comm),
                                   cuda_stream(stream)));
  }

  void all_reduce(Comm comm, void* data, int64_t count, at::ScalarType type, ReduceOp op,
                  Stream stream) override {
    ARCHON_NCCL_CALL(ncclAllReduce(data, data, count, nccl_type(type), nccl_op(op),
                                   nccl_comm(comm), cuda_stream(stream)));
  }

  void reduce_scatter(Comm comm, const void* input, void* output, int64_t count,
                      at::ScalarType type, Stream stream) override {
    ARCHON_NCCL_CALL(ncclReduceScatter(input, output, count, nccl_type(type), ncclSum,
                                       nccl_comm(comm), cuda_stream(stream)));
  }

  void reduce(Comm comm, const void* input, void* output, int64_t count, at::ScalarType type,
              int root, Stream stream) override {
    ARCHON_NCCL_CALL(ncclReduce(input, output, count, nccl_type(type), ncclSum, root,
                                nccl_comm(comm), cuda_stream(stream)));
  }

 private:
  static ncclResult_t async_error(Comm comm) {
    ncclResult_t result = ncclSuccess;
    ARCHON_NCCL_CALL(ncclCommGetAsyncError(nccl_comm(comm), &result));
    return result;
  }

  c10::cuda::CUDAStream torch_stream(Stream stream) const {
    return c10::cuda::getStreamFromExternal(cuda_stream(stream), device_);
  }

  c10::DeviceIndex device_;
};

}  // namespace

GpuPlatform cuda_platform() {
  const auto support = []() -> GpuSupport {
    int devices = 0;
    const cudaError_t code = cudaGetDeviceCount(&devices);
    if (code != cudaSuccess) {
      cudaGetLastError();  // else the next call would report it
      return {0, fmt::format("CUDA finds no GPU: {}", cudaGetErrorString(code))};
    }
    return {devices, devices > 0 ? "" : "CUDA finds no GPU on this host"};
  };
  return {support, [](int device) -> std::unique_ptr<GpuRuntime> {
            return std::make_unique<CudaRuntime>(device);
          }};
}

}  // namespace archon
