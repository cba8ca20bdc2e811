#include "safetensors_types.hpp"

#include <array>
#include <utility>

#include "archon/base/error.hpp"

namespace archon {
namespace {

constexpr std::array<std::pair<std::string_view, at::ScalarType>, 10> kTypes{{
    {"F64", at::kDouble},
    {"F32", at::kFloat},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"I64", at::kLong},
    {"I32", at::kInt},
    {"I16", at::kShort},
    {"I8", at::kChar},
    {"U8", at::kByte},
    {"BOOL", at::kBool},
}};

}  // namespace

std::optional<at::ScalarType> safetensors_dtype(std::string_view name) {
  for (const auto& [text, dtype] : kTypes)
    if (text == name) return dtype;
  return {};
}

std::string_view safetensors_dtype_name(at::ScalarType dtype) {
  for (const auto& [text, type] : kTypes)
    if (type == dtype) return text;
  throw_runtime_failure(
      fmt::format("Archon writes no {} tensors to safetensors files", c10::toString(dtype)));
}

std::optional<std::int64_t> tensor_bytes(at::ScalarType dtype, c10::ArrayRef<std::int64_t> shape) {
  auto bytes = static_cast<std::int64_t>(c10::elementSize(dtype));
  for (const std::int64_t size : shape)
    if (size < 0 || __builtin_mul_overflow(bytes, size, &bytes)) return {};
  return bytes;
}

}  // namespace archon
