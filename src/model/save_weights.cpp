#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <filesystem>

#include "archon/base/error.hpp"
#include "archon/io/files.hpp"
#include "archon/io/json.hpp"
#include "archon/model/state_dict.hpp"

namespace archon {
namespace {

namespace fs = std::filesystem;

/// What a HuggingFace folder holds besides weights and config.
constexpr const char* kCompanions[] = {"tokenizer.json",
                                       "tokenizer_config.json",
                                       "special_tokens_map.json",
                                       "vocab.json",
                                       "merges.txt",
                                       "added_tokens.json",
                                       "tokenizer.model",
                                       "chat_template.jinja",
                                       "generation_config.json"};

const char* hf_dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "float32";
    case at::kBFloat16:
      return "bfloat16";
    case at::kHalf:
      return "float16";
    default:
      break;
  }
  throw_runtime_failure(
      fmt::format("a HuggingFace folder cannot be written in {}", c10::toString(dtype)));
}

/// The config of the source, its type key brought up to date in the dialect it is written in.
std::string updated_config(const HfConfig& hf, at::ScalarType dtype) {
  Json json = hf.json();
  const bool has_new_key = json.contains("dtype");
  if (has_new_key) json["dtype"] = hf_dtype_name(dtype);
  if (!has_new_key || json.contains("torch_dtype")) json["torch_dtype"] = hf_dtype_name(dtype);
  return json.dump(2) + "\n";
}

}  // namespace

HfCompanions read_hf_companions(const std::string& folder_or_config_file) {
  HfCompanions companions{HfConfig::read(folder_or_config_file), {}};
  const fs::path folder = parent_folder(companions.config.source());
  for (const char* name : kCompanions)
    if (fs::is_regular_file(folder / name))
      companions.files[name] = read_text_file((folder / name).string());
  return companions;
}

std::vector<std::string> write_hf_companions(const HfCompanions& companions,
                                             const std::string& folder, at::ScalarType dtype) {
  std::vector<std::string> written = {"config.json"};
  write_text_file((fs::path(folder) / "config.json").string(),
                  updated_config(companions.config, dtype));
  for (const auto& [name, bytes] : companions.files) {
    write_text_file((fs::path(folder) / name).string(), bytes);
    written.push_back(name);
  }
  return written;
}

namespace {

/// The tp rank's share of a part, from the ranks of the shard group that own it.
at::Tensor gather_shards(const Parameter& parameter, std::size_t part, const at::Tensor& owned,
                         const Communicator& shard_group) {
  const Range elements = parameter.part_elements(part);
  std::vector<int64_t> shape = parameter.local_shape();
  shape[0] = parameter.local_rows(part).size();
  const at::Tensor mine = parameter.owned_part(owned, part);
  if (parameter.place().size == 1) return mine.view(shape);
  std::vector<int64_t> counts;
  for (int rank = 0; rank < parameter.place().size; ++rank)
    counts.push_back(intersect(elements, parameter.owned_by(rank)).size());
  at::Tensor whole = at::empty({elements.size()}, owned.options());
  shard_group.all_gather(whole, mine, counts);
  return whole.view(shape);
}

}  // namespace

at::Tensor gather_part(const Parameter& parameter, std::size_t part, const at::Tensor& owned,
                       const Mesh& mesh) {
  const at::NoGradGuard no_grad;
  const at::Tensor local = gather_shards(parameter, part, owned, mesh.shard_group());
  const Communicator& tp = mesh.tp();
  if (parameter.placement() == TpPlacement::replicated || tp.size() == 1) return local;

  const std::vector<int64_t>& shape = parameter.parts().at(part).shape;
  const int64_t dim = parameter.tp_dim();
  const std::vector<int64_t> blocks = even_sizes(shape.at(dim), tp.size());
  if (dim == 0) {
    at::Tensor whole = at::empty(shape, owned.options());
    tp.all_gather(whole, local, blocks);
    return whole;
  }
  // Communicators gather rows, so columns travel transposed.
  at::Tensor transposed = at::empty({shape[1], shape[0]}, owned.options());
  tp.all_gather(transposed, local.t().contiguous(), blocks);
  return transposed.t().contiguous();
}

void for_each_whole_tensor(
    const Model& model, const StateDictAdapter& adapter, const Mesh& mesh,
    const std::function<at::Tensor(const Parameter&)>& select,
    const std::function<void(const std::string&, const at::Tensor&)>& visit) {
  for (const Parameter* parameter : model.parameters()) {
    for (std::size_t part = 0; part < parameter->parts().size(); ++part) {
      visit(adapter.to_hf(parameter->parts()[part].name),
            gather_part(*parameter, part, select(*parameter), mesh));
    }
  }
}

std::vector<SafetensorsSpec> tensors_of(const Model& model, const StateDictAdapter& adapter,
                                        at::ScalarType dtype) {
  std::vector<SafetensorsSpec> specs;
  for (const Parameter* parameter : model.parameters())
    for (const ParameterPart& part : parameter->parts())
      specs.push_back({adapter.to_hf(part.name), dtype, part.shape});
  return specs;
}

void save_hf_folder(const Model& model, const StateDictAdapter& adapter, const Mesh& mesh,
                    const HfCompanions& companions, const std::string& folder,
                    at::ScalarType dtype, std::int64_t max_shard_bytes,
                    const SafetensorsMetadata& metadata) {
  const bool writes = mesh.world().rank() == 0;
  if (writes) ensure_writable_folder(folder);

  std::vector<std::pair<const Parameter*, std::size_t>> sources;
  for (const Parameter* parameter : model.parameters())
    for (std::size_t part = 0; part < parameter->parts().size(); ++part)
      sources.emplace_back(parameter, part);
  auto next = sources.begin();
  const auto produce = [&](const SafetensorsSpec&) {
    const auto [parameter, part] = *next++;
    return gather_part(*parameter, part, parameter->master(), mesh).to(dtype);
  };
  write_safetensors_folder(folder, tensors_of(model, adapter, dtype), max_shard_bytes, produce,
                           writes, metadata);
  if (writes) write_hf_companions(companions, folder, dtype);
}

}  // namespace archon
