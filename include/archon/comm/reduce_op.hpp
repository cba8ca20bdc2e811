#pragma once

namespace archon {

enum class ReduceOp { sum, max, min };

}  // namespace archon
