#include "sequence_sums.hpp"

#include <ATen/ops/full.h>
#include <ATen/ops/index_add.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>

namespace archon {

SequenceSums::SequenceSums(const std::vector<int64_t>& cu_seqlens, int64_t tokens)
    : bins_(static_cast<int64_t>(cu_seqlens.size())),
      numbers_(at::full({tokens}, bins_ - 1, at::kLong)) {
  for (int64_t i = 0; i + 1 < bins_; ++i)
    numbers_.narrow(0, cu_seqlens[i], cu_seqlens[i + 1] - cu_seqlens[i]).fill_(i);
}

at::Tensor SequenceSums::sum(const at::Tensor& x) const {
  return at::zeros({bins_}, at::kDouble).index_add(0, numbers_, x);
}

at::Tensor SequenceSums::spread(const at::Tensor& x) const { return x.index_select(0, numbers_); }

}  // namespace archon
