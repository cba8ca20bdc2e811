#include "saved_checkpoint.hpp"

#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>

#include "archon/base/checksum.hpp"
#include "archon/base/error.hpp"
#include "archon/io/json.hpp"
#include "saved_boxes.hpp"

namespace archon {
namespace {

constexpr std::size_t kMostOpenFiles = 64;

bool is_shard(const ManifestFile& file) { return file.name.starts_with("shard-"); }

}  // namespace

SavedCheckpoint::SavedCheckpoint(std::string folder)
    : folder_(std::move(folder)), manifest_(read_complete_manifest(folder_)) {
  check_small_files();
  index_ = std::make_unique<h5::File>(h5::File::open(checked_path(kIndexName)));
  check_index();
  for (h5::DatasetInfo& info : index_->datasets())
    if (info.path.starts_with(kParameterGroup) || info.path.starts_with(kOptimizerGroup))
      tensors_.push_back(std::move(info));
}

int64_t SavedCheckpoint::bytes() const {
  int64_t bytes = 0;
  for (const ManifestFile& file : manifest_.files) bytes += file.bytes;
  return bytes;
}

int64_t SavedCheckpoint::shards() const { return std::ranges::count_if(manifest_.files, is_shard); }

void SavedCheckpoint::check_small_files() const {
  for (const ManifestFile& file : manifest_.files) {
    // What holds elements has checksums of its own for what is read of it.
    if (is_shard(file) || (file.name == kIndexName && shards() == 0)) continue;
    const std::string path = folder_ + "/" + file.name;
    ARCHON_VALIDATE(xxh3_64_of_file(path) == file.xxh3_64,
                    "{} is damaged: it does not fit its checksum in {}", path, kManifestName);
  }
}

void SavedCheckpoint::check_index() const {
  const std::string schema = index_->string_attribute("/", "schema").value_or("none");
  const auto version = index_->number_attribute("/", "schema_version").value_or(0);
  ARCHON_VALIDATE(schema == "archon.checkpoint" && version == 1,
                  "{}: schema {} version {}; this Archon reads archon.checkpoint version 1",
                  index_->path(), schema, version);
  const auto step = index_->number_attribute("/", "step").value_or(-1);
  ARCHON_VALIDATE(step == static_cast<double>(manifest_.step), "{} is of step {}, {} of step {}",
                  index_->path(), step, kManifestName, manifest_.step);
}

Json SavedCheckpoint::trainer() const {
  constexpr const char* kState = "/trainer/state";
  const std::string text = index_->read_string(kState);
  const auto sum = index_->unsigned_attribute(kState, "xxh3_64");
  ARCHON_VALIDATE(sum == xxh3_64(text.data(), text.size()),
                  "{}: {} is damaged: it does not fit its checksum", index_->path(), kState);
  return parse_json(text, index_->path() + ": " + kState);
}

std::map<std::string, std::vector<BlockCopy>> SavedCheckpoint::plan(
    const std::vector<OwnedPiece>& pieces) const {
  std::map<std::string, std::vector<BlockCopy>> copies;
  for (const OwnedPiece& piece : pieces) {
    float* to = piece.elements.mutable_data_ptr<float>();
    const auto saved_all = saved_boxes(*index_, index_->info(piece.path));
    for (const Box& wanted : piece.boxes) {
      for (const SavedBox& saved : saved_all)
        if (intersect(wanted, saved.box).elements() > 0)
          copies[saved.file].push_back(
              copy_of_common(saved.box, saved.dataset, saved.begin, wanted, to));
      to += wanted.elements();
    }
  }
  return copies;
}

void SavedCheckpoint::read(const std::vector<OwnedPiece>& pieces) {
  std::vector<OwnedPiece> in_host = pieces;
  for (OwnedPiece& piece : in_host)
    if (!piece.elements.is_cpu()) piece.elements = at::empty(piece.elements.sizes(), at::kFloat);
  for (auto& [file, copies] : plan(in_host)) copy_blocks(open(file), std::move(copies));
  for (std::size_t i = 0; i < pieces.size(); ++i)
    if (!pieces[i].elements.is_cpu()) at::Tensor(pieces[i].elements).copy_(in_host[i].elements);
}

const BlockFile& SavedCheckpoint::open(const std::string& file) {
  const auto open = files_.find(file);
  if (open != files_.end()) return open->second;
  const std::string path = checked_path(file);
  if (files_.size() >= kMostOpenFiles) files_.clear();
  return files_.try_emplace(file, path).first->second;
}

std::string SavedCheckpoint::checked_path(const std::string& file) const {
  const auto listed = std::ranges::find(manifest_.files, file, &ManifestFile::name);
  ARCHON_VALIDATE(listed != manifest_.files.end(), "{} lists no file {}",
                  folder_ + "/" + kManifestName, file);
  check_structure(folder_ + "/" + file, *listed);
  return folder_ + "/" + file;
}

}  // namespace archon
