#include "hdf5_check.hpp"

#include <optional>
#include <string_view>

namespace archon::h5 {
namespace {

herr_t keep_first(unsigned position, const H5E_error2_t* error, void* text) {
  if (position == 0)
    *static_cast<std::string*>(text) = fmt::format("{}: {}", error->func_name, error->desc);
  return 0;
}

/// The system's words in a report such as "file write failed: time = ..., filename = '...', errno =
/// 28, error message = 'No space left on device', buf = ...": the rest helps no reader.
std::optional<std::string> system_reason(const std::string& report) {
  constexpr std::string_view kMark = "error message = '";
  const auto mark = report.find(kMark);
  if (mark == report.npos) return {};
  const auto begin = mark + kMark.size();
  return report.substr(begin, report.find('\'', begin) - begin);
}

}  // namespace

std::string last_reason() {
  std::string reason = "HDF5 gives no reason";
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &reason);
  return system_reason(reason).value_or(reason);
}

void silence_error_printing() { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

}  // namespace archon::h5
