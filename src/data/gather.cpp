#include "archon/data/gather.hpp"

#include <ATen/ops/empty.h>

#include "archon/base/error.hpp"

namespace archon {

at::Tensor ulysses_gather_output(const at::Tensor& slice, const Communicator& cp) {
  ARCHON_ENSURE(slice.dim() >= 1, "a tensor without dims is no slice of a token stream");
  std::vector<int64_t> shape = slice.sizes().vec();
  shape.front() *= cp.size();
  const at::Tensor whole = at::empty(shape, slice.options().requires_grad(false));
  cp.all_gather(whole, slice.detach().contiguous());
  return whole;
}

}  // namespace archon
