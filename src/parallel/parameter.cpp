#include "archon/parallel/parameter.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/ranges.h>

#include "archon/base/error.hpp"

namespace archon {
namespace {

void check_spec(const ParameterSpec& spec) {
  ARCHON_ENSURE(!spec.parts.empty(), "a parameter without parts was declared");
  const std::vector<int64_t>& first = spec.parts.front().shape;
  const std::size_t dims = spec.placement == TpPlacement::columns ? 2 : 1;
  for (const ParameterPart& part : spec.parts) {
    ARCHON_ENSURE(part.shape.size() >= dims,
                  "parameter {} of shape [{}] has too few dims for its placement", part.name,
                  fmt::join(part.shape, ", "));
    ARCHON_ENSURE(
        std::equal(part.shape.begin() + 1, part.shape.end(), first.begin() + 1, first.end()),
        "parameter {} of shape [{}] cannot lie below {} of shape [{}]: their rows differ",
        part.name, fmt::join(part.shape, ", "), spec.parts.front().name, fmt::join(first, ", "));
  }
}

}  // namespace

Parameter::Parameter(ParameterSpec spec) : spec_(std::move(spec)) { check_spec(spec_); }

void Parameter::set_tp(int tp_rank, int tp_size) {
  ARCHON_ENSURE(!allocated(), "parameter {} was placed over tp after it was allocated",
                parts().front().name);
  tp_rank_ = tp_rank;
  tp_size_ = tp_size;
}

Range Parameter::tp_range(std::size_t part) const {
  const int64_t extent = parts().at(part).shape.at(tp_dim());
  if (placement() == TpPlacement::replicated) return {0, extent};
  return even_range(extent, tp_size_, tp_rank_);
}

Range Parameter::local_rows(std::size_t part) const {
  const auto rows_of = [this](std::size_t i) {
    return tp_dim() == 0 ? tp_range(i).size() : parts()[i].shape.front();
  };
  int64_t begin = 0;
  for (std::size_t i = 0; i < part; ++i) begin += rows_of(i);
  return {begin, begin + rows_of(part)};
}

at::Tensor Parameter::local_part(const at::Tensor& tensor, std::size_t part) const {
  const Range rows = local_rows(part);
  return tensor.narrow(0, rows.begin, rows.size());
}

std::vector<int64_t> Parameter::local_shape() const {
  std::vector<int64_t> shape = parts().front().shape;
  shape.front() = local_rows(parts().size() - 1).end;
  if (tp_dim() == 1) shape[1] = tp_range(0).size();
  return shape;
}

void Parameter::allocate(at::ScalarType compute_dtype) {
  master_ = at::empty(local_shape(), at::kFloat);
  value_ = compute_dtype == at::kFloat ? master_.detach()
                                       : at::empty_like(master_, at::dtype(compute_dtype));
  value_.set_requires_grad(true);
  grad_ = at::Tensor();
}

void Parameter::refresh_value() {
  if (value_.scalar_type() == at::kFloat) return;
  const at::NoGradGuard no_grad;
  value_.copy_(master_);
}

void Parameter::zero_grad() {
  if (grad_.defined()) {
    grad_.zero_();
  } else {
    grad_ = at::zeros_like(master_);
  }
  // A float32 backward adds straight into grad; a bfloat16 one leaves a tensor of its own, which
  // collect_grad adds in float32.
  value_.mutable_grad() = value_.scalar_type() == at::kFloat ? grad_ : at::Tensor();
}

void Parameter::collect_grad() {
  const at::Tensor left = value_.grad();
  if (!left.defined() || left.is_same(grad_)) return;
  ARCHON_ENSURE(grad_.defined(), "the gradient of {} was collected before zero_grad made it",
                parts().front().name);
  const at::NoGradGuard no_grad;
  grad_.add_(left);
  value_.mutable_grad() = at::Tensor();
}

}  // namespace archon
