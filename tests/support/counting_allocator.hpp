#pragma once

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <unordered_map>

namespace archon::test {

/// What tensors of this process take, from when it exists on. Never destroyed: tensors may outlive
/// a test.
class CountingAllocator final : public c10::Allocator {
 public:
  static CountingAllocator& install() {
    static auto* const counting = [] {
      auto* const allocator = new CountingAllocator(*c10::GetCPUAllocator());
      c10::SetCPUAllocator(allocator, /*priority=*/255);
      return allocator;
    }();
    return *counting;
  }

  int64_t bytes() const {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }
  int64_t peak() const {
    const std::lock_guard lock(mutex_);
    return peak_;
  }
  void restart_peak() {
    const std::lock_guard lock(mutex_);
    peak_ = bytes_;
  }

  c10::DataPtr allocate(std::size_t size) override {
    void* const data = below_.raw_allocate(size);
    if (data != nullptr) {
      const std::lock_guard lock(mutex_);
      sizes_[data] = static_cast<int64_t>(size);
      peak_ = std::max(peak_, bytes_ += static_cast<int64_t>(size));
    }
    return {data, data, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t size) const override {
    default_copy_data(to, from, size);
  }

 private:
  explicit CountingAllocator(c10::Allocator& below) : below_(below) {}
  static void release(void* data) {
    if (data == nullptr) return;
    CountingAllocator& self = install();
    {
      const std::lock_guard lock(self.mutex_);
      const auto entry = self.sizes_.find(data);
      self.bytes_ -= entry->second;
      self.sizes_.erase(entry);
    }
    self.below_.raw_deallocate(data);
  }

  c10::Allocator& below_;
  mutable std::mutex mutex_;  // autograd and OpenMP threads allocate, too
  std::unordered_map<void*, int64_t> sizes_;
  int64_t bytes_ = 0, peak_ = 0;
};

}  // namespace archon::test
