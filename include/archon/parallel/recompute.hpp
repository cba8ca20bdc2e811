#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

/// Activation checkpointing (Chen et al. 2016, arXiv:1604.06174; selective: Korthikanti et al.
/// 2022, arXiv:2205.05198): a segment of the model keeps its input instead of its activations, and
/// runs forward once more when its backward needs them.
namespace archon {

/// What a segment recomputes in backward.
enum class Recompute {
  none,       ///< nothing
  selective,  ///< all but results marked `reuse`, which are kept from the forward pass
  full        ///< everything but results marked `skip`
};

/// What becomes of one operation's result in a recomputation.
enum class WhenRecomputed {
  compute,
  reuse,  ///< dear to compute: kept from the forward pass under Recompute::selective
  skip    ///< no gradient depends on its value: memory of the right shape will do
};

namespace recomputation {

using Tensors = std::vector<at::Tensor>;

/// The segment runs forward a second time, inside its backward.
bool running();
/// What is marked `reuse` is kept.
bool keeps_results();

/// `compute()`, or what it gave in the forward pass if this is a recomputation that kept it.
Tensors reuse(const std::function<Tensors()>& compute);

/// The same for one tensor of known shape, and for every use of it.
at::Tensor result(WhenRecomputed use, at::IntArrayRef shape, const at::TensorOptions& options,
                  const std::function<at::Tensor()>& compute);

/// Results that a segment keeps, in the order of its calls of reuse().
using Kept = std::vector<Tensors>;

/// One run of a segment, for as long as it lives: reuse() stores results in `kept` (first run) or
/// takes them from it (recomputation). Scopes nest; a null `kept` keeps nothing.
class Scope {
 public:
  enum class Run { first, second };
  Scope(Run run, Kept* kept);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  friend bool running();
  friend bool keeps_results();
  friend Tensors reuse(const std::function<Tensors()>& compute);
  Run run_;
  Kept* kept_;
  std::size_t next_ = 0;
  Scope* outer_;
};

}  // namespace recomputation
}  // namespace archon
