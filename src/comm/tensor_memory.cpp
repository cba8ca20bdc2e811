#include "archon/comm/tensor_memory.hpp"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/Device.h>
#include <c10/core/impl/alloc_cpu.h>

#include "archon/base/arena.hpp"

namespace archon {
namespace {

constexpr std::size_t kLeastBytes = std::size_t{256} << 10;
// Above the priority with which LibTorch sets its own.
constexpr uint8_t kPriority = 100;

class TensorMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    void* block = bytes >= kLeastBytes ? arena().allocate(bytes) : nullptr;
    if (block == nullptr) block = c10::alloc_cpu(bytes);
    return {block, block, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  /// Never destroyed: static tensors may outlive everything else.
  static Arena& arena() {
    static Arena* const arena = new Arena;
    return *arena;
  }
  static void release(void* block) {
    if (block != nullptr && !arena().release(block)) c10::free_cpu(block);
  }
};

}  // namespace

void keep_tensor_memory() {
  static TensorMemory memory;
  c10::SetCPUAllocator(&memory, kPriority);
}

}  // namespace archon
