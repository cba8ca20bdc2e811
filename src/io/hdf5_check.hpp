#pragma once

#include <fmt/format.h>
#include <hdf5.h>

#include <string>

#include "archon/base/error.hpp"

namespace archon::h5 {

/// The innermost entry of HDF5's error stack: "H5FD__sec2_open: unable to open file: ...".
std::string last_reason();

/// HDF5 prints its errors on stderr unless told not to.
void silence_error_printing();

template <class Kind, class Result, class Message>
Result checked(Result result, const Message& message) {
  if (result < 0) [[unlikely]]
    throw Kind(message() + ": " + last_reason());
  return result;
}

}  // namespace archon::h5

/// Calls HDF5 and hands on its result; a negative one becomes an exception of type `Kind` whose
/// fmt-formatted text is followed by HDF5's reason.
#define ARCHON_HDF5(Kind, call, ...) \
  ::archon::h5::checked<::archon::Kind>((call), [&] { return ::fmt::format(__VA_ARGS__); })
