#pragma once

#include <ATen/core/Tensor.h>

/// Copies between host and GPU for which the host does not wait: they take their place in the stream
/// that computes. What LibTorch copies so lies in memory that the kernel does not move ("pinned").
namespace archon {

/// `host` on `device`; itself where that is the CPU.
at::Tensor copy_to(at::Device device, const at::Tensor& host);

/// `x` in host memory, complete only when the stream has come to it: read it on the GPU again, by
/// copy_to, or after the host has waited for the stream.
at::Tensor copy_to_host_later(const at::Tensor& x);

}  // namespace archon
