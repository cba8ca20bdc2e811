#include <ATen/ops/empty.h>

#include "archon/checkpoint/checkpoint_reader.hpp"
#include "archon/io/files.hpp"
#include "checkpoint_fit.hpp"

namespace archon {

void export_checkpoint(const std::string& folder, const Model& model,
                       const StateDictAdapter& adapter, const std::string& output,
                       at::ScalarType dtype, int64_t max_shard_bytes) {
  SavedCheckpoint saved(folder);
  check_fit(saved, model, nullptr, adapter);
  ensure_writable_folder(output);
  const auto produce = [&](const SafetensorsSpec& spec) {
    const at::Tensor tensor = at::empty(spec.shape, at::kFloat);
    saved.read({{kParameterGroup + spec.name, spec.shape, {whole_box(spec.shape)}, tensor}});
    return tensor.to(dtype);
  };
  write_safetensors_folder(output, tensors_of(model, adapter, dtype), max_shard_bytes, produce,
                           /*write=*/true);
  write_hf_companions(read_hf_companions(folder), output, dtype);
}

}  // namespace archon
