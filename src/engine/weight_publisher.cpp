#include "weight_publisher.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "archon/base/activity.hpp"
#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/comm/agreement.hpp"
#include "archon/comm/watchdog.hpp"
#include "archon/io/files.hpp"
#include "archon/model/state_dict.hpp"

namespace archon {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "version-";
constexpr const char* kLatest = "latest";

std::string version_name(int64_t version) { return fmt::format("{}{:08}", kPrefix, version); }

/// What such a name stands for; nothing for other names.
std::optional<int64_t> version_of(const std::string& name) {
  int64_t version = -1;
  if (name.starts_with(kPrefix))
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), version);
  if (version < 0 || name != version_name(version)) return {};
  return version;
}

std::vector<int64_t> versions_in(const std::string& folder) {
  std::vector<int64_t> versions;
  for (const auto& item : fs::directory_iterator(folder))
    if (const auto version = version_of(item.path().filename().string()))
      versions.push_back(*version);
  return versions;
}

/// What runs that were interrupted left behind.
void remove_leftovers(const std::string& folder) {
  const std::string prefix = fmt::format(".{}", kPrefix);
  std::vector<fs::path> leftovers;
  for (const auto& item : fs::directory_iterator(folder))
    if (item.path().filename().string().starts_with(prefix)) leftovers.push_back(item.path());
  for (const fs::path& leftover : leftovers) remove_tree(leftover.string());
}

}  // namespace

WeightPublisher::WeightPublisher(const TrainOptions& options, const LoadedModel& loaded,
                                 const Mesh& mesh)
    : folder_(options.sync.publish),
      keep_(options.sync.publish_keep),
      max_shard_bytes_(options.max_shard_bytes),
      loaded_(loaded),
      mesh_(mesh) {
  check_on_rank_zero(mesh.world(), [&] {
    std::error_code ignored;
    ensure_writable_folder(folder_);
    // The run's own folder is locked already.
    if (!fs::equivalent(folder_, options.output, ignored)) lock_ = FolderLock(folder_);
    remove_leftovers(folder_);
    keep_models(options);
  });
}

void WeightPublisher::keep_models(const TrainOptions& options) {
  const std::pair<const char*, std::string> models[] = {{"--model", options.run.model},
                                                        {"--reference", options.loss.reference},
                                                        {"--critic", options.loss.critic_model}};
  for (const int64_t version : versions_in(folder_))
    for (const auto& [option, model] : models) {
      std::error_code ignored;
      const std::string there = path(version_name(version));
      if (!fs::equivalent(there, model, ignored) || !models_.insert(version).second) continue;
      log::warning(
          "{} is this run's {}: it stays as it is, and the weights after step {} are not "
          "published; give --publish another folder",
          there, option, version);
    }
}

void WeightPublisher::publish(int64_t version) {
  const ActivityScope writing(Activity::io, "publish");
  const StageScope stage("publication of weights");
  const std::string written = path(fmt::format(".{}.tmp", version_name(version)));
  const bool writes = mesh_.world().rank() == 0;
  save_hf_folder(*loaded_.model, loaded_.spec->adapter, mesh_, loaded_.hf, written,
                 loaded_.model->config().stored_dtype, max_shard_bytes_,
                 {{"version", std::to_string(version)}});
  if (!writes) return;
  if (models_.contains(version)) return remove_tree(written);
  show(written, version);
  prune(version);
}

void WeightPublisher::show(const std::string& written, int64_t version) const {
  const std::string name = version_name(version), link = path(fmt::format(".{}.tmp", kLatest));
  replace_folder(written, path(name));
  remove_tree(link);
  std::error_code error;
  fs::create_symlink(name, link, error);
  if (!error) fs::rename(link, path(kLatest), error);
  ARCHON_ENSURE(!error, "cannot point {} at {}: {}", path(kLatest), name, error.message());
  sync_path(folder_);
}

/// Versions above the newest are of a run that went on from an earlier step: they are the oldest.
void WeightPublisher::prune(int64_t newest) const {
  if (keep_ == 0) return;
  std::vector<int64_t> versions = versions_in(folder_);
  std::erase_if(versions, [&](int64_t version) { return models_.contains(version); });
  std::ranges::sort(versions, {},
                    [&](int64_t version) { return std::pair(version <= newest, version); });
  const auto old = std::max<int64_t>(0, std::ssize(versions) - keep_);
  for (const int64_t version : std::span(versions).first(static_cast<std::size_t>(old))) try {
      hide_and_remove_tree(path(version_name(version)));
    } catch (const RuntimeFailure& failure) {
      log::warning("an old version stays: {}", failure.what());
    }
}

}  // namespace archon
