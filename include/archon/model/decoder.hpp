#pragma once

#include <memory>

#include "archon/model/model.hpp"

namespace archon {

/// A decoder model without storage; see Model for what comes next.
std::unique_ptr<Model> make_decoder(const DecoderConfig& config);

}  // namespace archon
