#include "archon/parallel/matmul.hpp"

#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <optional>
#include <utility>

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
bool can_pack(at::ScalarType dtype) {
#if defined(__x86_64__)
  return dtype == at::kFloat || __builtin_cpu_supports("x86-64-v4");
#else
  return dtype == at::kFloat;
#endif
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
    copy = pack(b);
  }
  return copy;
}

at::Tensor matmul_nt(const at::Tensor& a, const at::Tensor& b) {
  if (a.size(0) == 0 || b.size(0) == 0) return at::empty({a.size(0), b.size(0)}, a.options());
  if (a.size(1) == 0) return at::zeros({a.size(0), b.size(0)}, a.options());
  if (current != nullptr && can_pack(a.scalar_type())) return onednn_linear(a, current->packed(b));
  if (a.scalar_type() == at::kFloat) return onednn_linear(a, b);
  return at::mm(a, b.t());
}

}  // namespace archon
