#pragma once

#include <ATen/core/Tensor.h>

namespace archon {

/// a [m, k] times the transpose of b [n, k]: [m, n], in the operands' type. Any strides; no
/// autograd. Every matrix product of the program goes through here.
///
/// float32 goes to oneDNN, which is about twice as fast as the MKL that LibTorch would take
/// (docs/performance.md); bfloat16 goes to at::mm, which is oneDNN already.
at::Tensor matmul_nt(const at::Tensor& a, const at::Tensor& b);

}  // namespace archon
