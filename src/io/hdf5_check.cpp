#include "hdf5_check.hpp"

namespace archon::h5 {
namespace {

herr_t keep_first(unsigned position, const H5E_error2_t* error, void* text) {
  if (position == 0)
    *static_cast<std::string*>(text) = fmt::format("{}: {}", error->func_name, error->desc);
  return 0;
}

}  // namespace

std::string last_reason() {
  std::string reason = "HDF5 gives no reason";
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &reason);
  return reason;
}

void silence_error_printing() { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

}  // namespace archon::h5
