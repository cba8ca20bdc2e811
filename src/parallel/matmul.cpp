#include "archon/parallel/matmul.hpp"

#include <ATen/Context.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <optional>
#include <utility>

#include "matmul_tiles.hpp"

namespace archon {
namespace {

// y = x wᵀ in oneDNN. LibTorch offers it for float32 only under this name (its compiler uses it).
at::Tensor onednn_linear(const at::Tensor& x, const at::Tensor& weight) {
  using Signature = at::Tensor(
      const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::string_view,
      c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
                             .typed<Signature>();
  return op.call(x, weight, std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "");
}

// A weight as onednn_linear multiplies it fastest: a tensor that is opaque to all others.
at::Tensor pack(const at::Tensor& weight) {
  const c10::SymInt rows(64);  // of the other operand, about
  using Signature = at::Tensor(const at::Tensor&, std::optional<c10::SymInt>);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_reorder_linear_weight", "")
                             .typed<Signature>();
  return op.call(weight.contiguous(), rows);
}

/// Whether LibTorch lets oneDNN multiply such operands on this processor.
bool in_onednn(at::ScalarType dtype) {
#if defined(__x86_64__)
  return dtype == at::kFloat || __builtin_cpu_supports("x86-64-v4");
#else
  return dtype == at::kFloat;
#endif
}

/// Whether MKL, which LibTorch's own float32 product calls, multiplies such operands faster than
/// oneDNN, which copies both where both lie transposed: a weight's gradient. On Intel's processors it
/// multiplies all as fast and those faster; on AMD's it has only AVX2, which is enough for those as
/// long as vectors are 256 bits wide inside, on Zen 3 and 4.
bool prefers_mkl([[maybe_unused]] const at::Tensor& a, [[maybe_unused]] const at::Tensor& b) {
#if defined(__x86_64__)
  if (!at::hasMKL()) return false;
  const bool transposed = a.stride(1) != 1 && b.stride(1) != 1;
  return __builtin_cpu_is("intel") || (__builtin_cpu_is("amdfam19h") && transposed);
#else
  return false;
#endif
}

/// The type that operands are multiplied in. Where oneDNN does not take bfloat16, LibTorch's loop
/// for it is several times slower than a conversion and a float32 product, which sums in float32
/// and rounds once as well.
at::ScalarType product_type(at::ScalarType dtype) {
  return dtype == at::kBFloat16 && !in_onednn(dtype) ? at::kFloat : dtype;
}

thread_local PackedOperands* current = nullptr;

}  // namespace

PackedOperands::Scope::Scope(PackedOperands& operands)
    : outer_(std::exchange(current, &operands)) {}

PackedOperands::Scope::~Scope() { current = outer_; }

const at::Tensor& PackedOperands::packed(const at::Tensor& b) {
  auto& [own, copy] = operands_[b.const_data_ptr()];
  if (!copy.defined()) {
    own = b;  // so that its memory becomes no one else's
    copy = pack(b.to(product_type(b.scalar_type())));
  }
  return copy;
}

at::Tensor matmul_nt(const at::Tensor& a, const at::Tensor& b) {
  if (a.size(0) == 0 || b.size(0) == 0) return at::empty({a.size(0), b.size(0)}, a.options());
  if (a.size(1) == 0) return at::zeros({a.size(0), b.size(0)}, a.options());
  if (!a.is_cpu()) return at::mm(a, b.t());
  if (are_multiplied_in_tiles(a, b)) return multiply_in_tiles(a, b);
  const at::ScalarType type = a.scalar_type(), product = product_type(type);
  if (current != nullptr && in_onednn(product))
    return onednn_linear(a.to(product), current->packed(b)).to(type);
  if (product == at::kFloat && !prefers_mkl(a, b))
    return onednn_linear(a.to(product), b.to(product)).to(type);
  return at::mm(a.to(product), b.to(product).t()).to(type);
}

}  // namespace archon
