#include "archon/checkpoint/checkpoint_folder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <functional>
#include <system_error>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/io/files.hpp"
#include "manifest.hpp"

namespace archon {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFolderName = "checkpoints";
constexpr const char* kLatestName = "latest";
constexpr const char* kStepPrefix = "step-";

/// Sees a checkpoint that cannot be used, and why.
using OnIncomplete = std::function<void(const std::string& folder, const std::string& why)>;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

std::string name_of(const fs::path& path) { return path.filename().string(); }

std::vector<CheckpointEntry> complete_checkpoints(const std::string& folder,
                                                  const OnIncomplete& on_incomplete) {
  std::vector<CheckpointEntry> found;
  for (const std::string& name : list_folder(folder)) {
    if (!name.starts_with(kStepPrefix)) continue;
    const std::string path = folder + "/" + name;
    try {
      const int64_t step = read_complete_manifest(path).step;
      ARCHON_VALIDATE(name == checkpoint_name(step), "its manifest is that of step {}", step);
      found.push_back({step, path});
    } catch (const InputError& error) {
      on_incomplete(path, error.what());
    }
  }
  std::ranges::sort(found, std::greater<>(), &CheckpointEntry::step);
  return found;
}

/// What `latest` names, if there is such a file.
std::optional<std::string> latest_name(const std::string& folder) {
  if (!is_there(folder + "/" + kLatestName)) return {};
  std::string text = read_text_file(folder + "/" + kLatestName);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  return text;
}

CheckpointEntry checkpoint_in(const std::string& folder) {
  return {read_complete_manifest(folder).step, folder};
}

CheckpointEntry newest_in(const std::string& folder) {
  const std::vector<CheckpointEntry> all = list_checkpoints(folder);
  ARCHON_VALIDATE(!all.empty(),
                  "{} holds no complete checkpoint; archon inspect tells what is "
                  "wrong with one of them",
                  folder);
  return all.front();
}

/// Also what is left of one: something in it tells what it was.
bool is_checkpoint(const fs::path& path) {
  return is_there(path / kManifestName) || is_there(path / kIndexName);
}

/// What an interrupted save, removal, or write of `latest` leaves: nothing else with a dot before it,
/// since what others keep here is theirs.
bool is_leftover(const std::string& name) {
  const bool hidden_step = name.starts_with(std::string(".") + kStepPrefix);
  return (hidden_step && (name.ends_with(".tmp") || name.ends_with(".old"))) ||
         name == std::string(kLatestName) + ".tmp";
}

template <class Action>
void log_failure(const Action& action) {
  try {
    action();
  } catch (const std::exception& error) {
    log::warning("an old checkpoint stays: {}", error.what());
  }
}

}  // namespace

std::string checkpoint_name(int64_t step) { return fmt::format("{}{:08}", kStepPrefix, step); }

std::vector<CheckpointEntry> list_checkpoints(const std::string& folder) {
  return complete_checkpoints(folder, [](const std::string& path, const std::string& why) {
    log::warning("the checkpoint {} is not complete: {}", path, why);
  });
}

std::optional<CheckpointEntry> find_checkpoint(const std::string& path) {
  fs::path at = fs::path(path).lexically_normal();
  if (at.filename().empty()) at = at.parent_path();  // "run/" is "run"
  if (name_of(at) == kLatestName && is_file(at)) {
    const std::string folder = parent_folder(at.string());
    return checkpoint_in(folder + "/" + latest_name(folder).value());
  }
  if (!is_folder(at)) return {};
  if (is_checkpoint(at)) return checkpoint_in(at.string());
  if (is_there(at / "config.json")) return {};
  if (is_folder(at / kFolderName)) return newest_in((at / kFolderName).string());
  const bool holds_some = name_of(at) == kFolderName ||
                          std::ranges::any_of(list_folder(at.string()), [](const auto& name) {
                            return name.starts_with(kStepPrefix);
                          });
  if (holds_some) return newest_in(at.string());
  return {};
}

void publish_checkpoint(const std::string& written, const std::string& folder, int64_t step) {
  const std::string name = checkpoint_name(step);
  replace_folder(written, folder + "/" + name);
  write_text_file(folder + "/" + kLatestName, name + "\n");
}

void remove_interrupted_saves(const std::string& folder) {
  log_failure([&] {
    for (const std::string& name : list_folder(folder))
      if (is_leftover(name)) log_failure([&] { remove_tree(folder + "/" + name); });
  });
}

void prune_checkpoints(const std::string& folder, int64_t keep) {
  log_failure([&] {
    const auto all = complete_checkpoints(folder, [](const auto&, const auto&) {});
    const std::string latest = latest_name(folder).value_or("");
    for (std::size_t i = 0; keep > 0 && i < all.size(); ++i) {
      const std::string name = checkpoint_name(all[i].step);
      if (static_cast<int64_t>(i) >= keep && name != latest)
        log_failure([&] { hide_and_remove_tree(folder + "/" + name); });
    }
  });
  remove_interrupted_saves(folder);
}

}  // namespace archon
