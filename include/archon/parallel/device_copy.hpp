#pragma once

#include <ATen/core/Tensor.h>

namespace archon {

/// `host` on `device`; itself where that is the CPU. The host does not wait: the copy takes its place in
/// the stream that computes, from memory that the kernel does not move ("pinned").
at::Tensor copy_to(at::Device device, const at::Tensor& host);

/// Returns when the stream that computes on `device` has done all it was given; on the CPU at once.
void wait_for(at::Device device);

}  // namespace archon
