#include "archon/parallel/matmul.hpp"

#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <optional>

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

}  // namespace

at::Tensor matmul_nt(const at::Tensor& a, const at::Tensor& b) {
  if (a.size(0) == 0 || b.size(0) == 0) return at::empty({a.size(0), b.size(0)}, a.options());
  if (a.size(1) == 0) return at::zeros({a.size(0), b.size(0)}, a.options());
  if (a.scalar_type() == at::kFloat) return onednn_linear(a, b);
  return at::mm(a, b.t());
}

}  // namespace archon
