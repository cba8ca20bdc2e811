#pragma once

#include <memory>

#include "archon/model/model.hpp"

namespace archon {

/// A Llama-like decoder: RMSNorm, grouped-query attention with rotary embedding, SwiGLU, with the
/// variations that DecoderConfig names. Sequence parallel over tp, Ulysses over cp.
std::unique_ptr<Model> make_decoder(const DecoderConfig& config);

}  // namespace archon
