#include "archon/base/error.hpp"

#include <utility>

namespace archon {

// Defined here so that the type information lives in libarchon, one copy for all plugins.
Error::~Error() = default;
InputError::~InputError() = default;
SharedInputError::~SharedInputError() = default;
RuntimeFailure::~RuntimeFailure() = default;

void throw_input_error(std::string message) { throw InputError(std::move(message)); }
void throw_runtime_failure(std::string message) { throw RuntimeFailure(std::move(message)); }

}  // namespace archon
