#pragma once

#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include "archon/base/error.hpp"

namespace archon {

/// Calls f with a null pointer of the element type of x, float or BFloat16: those that models
/// compute in. RuntimeFailure for any other.
template <class F>
void dispatch(const at::Tensor& x, F&& f) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return f(static_cast<float*>(nullptr));
    case at::kBFloat16:
      return f(static_cast<c10::BFloat16*>(nullptr));
    default:
      throw_runtime_failure(fmt::format("no kernel for {}; models compute in float32 or bfloat16",
                                        c10::toString(x.scalar_type())));
  }
}

}  // namespace archon
