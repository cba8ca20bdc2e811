#pragma once

namespace archon {

/// min(1, max_norm / (norm + 1e-6)): what gradients of global norm `norm` are multiplied by.
/// 1 when `max_norm` is 0 (clipping off).
double clip_coefficient(double norm, double max_norm);

}  // namespace archon
