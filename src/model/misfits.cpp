#include "archon/model/misfits.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "archon/base/error.hpp"

namespace archon {

void Misfits::throw_if_any(const std::string& folder) const {
  if (found_.empty()) return;
  std::string list;
  for (const auto& [kind, items] : found_) {
    const std::size_t shown = std::min<std::size_t>(items.size(), 10);
    list += fmt::format("\n  {}: {}", kind,
                        fmt::join(items.begin(), items.begin() + static_cast<long>(shown), ", "));
    if (items.size() > shown) list += fmt::format(" and {} more", items.size() - shown);
  }
  throw InputError(
      fmt::format("the weights in {} do not fit the model that the config describes:{}\n"
                  "use the weights that belong to this config.json",
                  folder, list));
}

}  // namespace archon
