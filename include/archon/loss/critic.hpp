#pragma once

#include <ATen/core/Tensor.h>

namespace archon {

enum class ValueError {
  mse,   ///< e²/2
  huber  ///< e²/2 up to |e| = delta, then delta · (|e| − delta/2) (Huber 1964)
};

struct CriticLossOptions {
  double eps_clip = 0;  ///< values are clipped to this far around the old ones; 0 = off
  ValueError error = ValueError::mse;
  double huber_delta = 1.0;
};

/// InputError that names the option.
void validate(const CriticLossOptions& options);

/// What a critic's loss is computed from: [tokens], position-aligned; any part of a stream.
struct CriticBatch {
  at::Tensor values;      ///< of the critic that is trained
  at::Tensor old_values;  ///< of the critic that the returns were computed with
  at::Tensor returns;
  at::Tensor mask;  ///< bool; targets; other entries may hold anything
};

struct CriticLoss {
  at::Tensor loss;     ///< float64 [tokens], 0 where no target; differentiable in values
  at::Tensor clipped;  ///< bool [tokens], the clipped error was the larger one
};

/// max(h(v − R), h(clip(v) − R)), clip(v) = old + clamp(v − old, ±eps_clip), h the error above:
/// Schulman et al. 2017, arXiv:1707.06347, as implemented for value functions in PPO.
CriticLoss critic_loss(const CriticBatch& batch, const CriticLossOptions& options);

}  // namespace archon
