#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <filesystem>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/engine/run.hpp"
#include "archon/io/files.hpp"
#include "archon/model/registry.hpp"

namespace archon {
namespace {

/// FNV-1a: the same on every machine, unlike std::hash.
uint64_t hash_name(const std::string& name) {
  uint64_t hash = 14695981039346656037ull;
  for (const unsigned char c : name) hash = (hash ^ c) * 1099511628211ull;
  return hash;
}

/// As transformers initialises decoders: normal(0, initializer_range), biases 0, norms 1. Each
/// tensor has a random stream of its own, so that none depends on the others.
at::Tensor initial_tensor(const SafetensorsSpec& spec, uint64_t seed, double deviation) {
  if (spec.name.ends_with("bias")) return at::zeros(spec.shape, spec.dtype);
  if (spec.name.ends_with("norm.weight")) return at::ones(spec.shape, spec.dtype);
  auto generator = at::detail::createCPUGenerator(seed ^ hash_name(spec.name));
  at::Tensor tensor = at::empty(spec.shape, at::kFloat);
  tensor.normal_(0.0, deviation, generator);
  return tensor.to(spec.dtype);
}

/// Random weights in the place of others would be a loss that nobody notices.
void check_without_weights(const std::string& folder) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored))
    ARCHON_VALIDATE(entry.path().extension() != ".safetensors",
                    "--output {} holds weights already; choose another folder, or remove them",
                    folder);
}

}  // namespace

void run_init(const std::string& config_file, std::uint64_t seed, const std::string& output,
              at::ScalarType dtype, std::int64_t max_shard_bytes) {
  const HfCompanions companions = read_hf_companions(config_file);
  const HfConfig& hf = companions.config;
  const ModelSpec& spec = ModelRegistry::instance().find(hf.model_type());
  const auto model = spec.make_model(spec.parse_config(hf));
  check_without_weights(output);
  ensure_writable_folder(output);
  write_safetensors_folder(
      output, tensors_of(*model, spec.adapter, dtype), max_shard_bytes,
      [&](const SafetensorsSpec& tensor) {
        return initial_tensor(tensor, seed, model->config().initializer_range);
      },
      /*write=*/true);
  write_hf_companions(companions, output, dtype);
  log::info("wrote {}", output);
}

}  // namespace archon
