#include "archon/parallel/parameter.hpp"

#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <functional>
#include <numeric>

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

int64_t Parameter::local_numel() const {
  const std::vector<int64_t> shape = local_shape();
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

Range Parameter::part_elements(std::size_t part) const {
  const std::vector<int64_t> shape = local_shape();
  const int64_t row =
      std::accumulate(shape.begin() + 1, shape.end(), int64_t{1}, std::multiplies<>());
  const Range rows = local_rows(part);
  return {rows.begin * row, rows.end * row};
}

Range Parameter::owned_by(int rank) const {
  const Range block{rank * place_.block - place_.offset, (rank + 1) * place_.block - place_.offset};
  return intersect({0, local_numel()}, block);
}

at::Tensor Parameter::owned_part(const at::Tensor& tensor, std::size_t part) const {
  const Range mine = owned(), wanted = intersect(part_elements(part), mine);
  if (wanted.size() == 0) return tensor.narrow(0, 0, 0);
  return tensor.narrow(0, wanted.begin - mine.begin, wanted.size());
}

at::Tensor Parameter::whole_grad() {
  if (!grad_.defined()) grad_ = at::zeros(local_shape(), master_.options());
  return grad_;
}

at::Tensor Parameter::grad() const {
  if (!grad_.defined()) return at::zeros({owned().size()}, master_.options());
  // Of a replicated parameter every rank has the whole gradient.
  const at::Tensor flat = grad_.view({-1});
  return flat.numel() == owned().size() ? flat : flat.narrow(0, owned().begin, owned().size());
}

}  // namespace archon
