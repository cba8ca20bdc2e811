#pragma once

#include <ATen/core/Tensor.h>

#include <unordered_map>
#include <utility>

namespace archon {

/// a [m, k] times the transpose of b [n, k]: [m, n], in the operands' type. Any strides; no
/// autograd. Every matrix product of the program goes through here.
///
/// float32 goes to oneDNN or to MKL, whichever multiplies such operands faster on this processor
/// (docs/performance.md); bfloat16 goes to at::mm, which is oneDNN already, or to float32 and back
/// on processors without AVX-512, where it is not; but a weight's gradient is Archon's own product
/// where the processor has tiles for it.
at::Tensor matmul_nt(const at::Tensor& a, const at::Tensor& b);

/// Copies of right operands that come again and again (a model's weights while it generates), in
/// the order in which the processor multiplies them: with few rows of a, bringing them into it is
/// most of a product's cost.
class PackedOperands {
 public:
  /// For as long as it lives, matmul_nt packs on this thread every b that it meets, and knows it
  /// again by its memory: b must not change as long as `operands` is used.
  class Scope {
   public:
    explicit Scope(PackedOperands& operands);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    PackedOperands* outer_;
  };

 private:
  friend at::Tensor matmul_nt(const at::Tensor& a, const at::Tensor& b);
  const at::Tensor& packed(const at::Tensor& b);

  std::unordered_map<const void*, std::pair<at::Tensor, at::Tensor>> operands_;  // b, packed b
};

}  // namespace archon
