#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace archon {

inline constexpr const char* kWeightsFile = "model.safetensors";
inline constexpr const char* kWeightsIndex = "model.safetensors.index.json";
inline constexpr const char* kMetadataKey = "__metadata__";

/// "BF16" -> BFloat16; nothing for names that Archon does not read.
std::optional<at::ScalarType> safetensors_dtype(std::string_view name);

/// Bytes of a tensor; nothing when they, or a dim, do not fit 63 bits, or a dim is negative.
std::optional<std::int64_t> tensor_bytes(at::ScalarType dtype, c10::ArrayRef<std::int64_t> shape);

}  // namespace archon
