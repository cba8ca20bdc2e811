#pragma once

#include <ATen/core/ScalarType.h>

#include <cstdint>
#include <memory>
#include <string>

#include "archon/io/json_fwd.hpp"

namespace archon {

/// config.json of a HuggingFace model folder, with readers that name what is wrong.
class HfConfig {
 public:
  /// `source` is the file's name in messages.
  HfConfig(Json json, std::string source);
  static HfConfig read(const std::string& folder_or_file);

  const Json& json() const { return *json_; }
  const std::string& source() const { return source_; }
  std::string model_type() const;
  /// First entry of `architectures`, or "".
  std::string architecture() const;

  /// The value of `key`; InputError when it is missing (no default) or of another type. A JSON
  /// null counts as missing.
  int64_t integer(const std::string& key) const;
  int64_t integer(const std::string& key, int64_t missing) const;
  double number(const std::string& key, double missing) const;
  bool boolean(const std::string& key, bool missing) const;
  std::string text(const std::string& key, const std::string& missing) const;

  /// InputError: `key` ("outer.inner" inside an object) asks for what the engine does not do.
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const;

 private:
  std::shared_ptr<const Json> json_;
  std::string source_;
};

/// What a decoder model is: enough to build it.
struct DecoderConfig {
  std::string model_type;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  bool qkv_bias = false;         ///< bias on the query, key and value projections
  bool qk_norm = false;          ///< RMSNorm over head_dim on every query and key head
  bool tied_embeddings = false;  ///< the head is the embedding
  bool critic = false;           ///< a score head of one value per token in place of the head
  double initializer_range = 0.02;
  at::ScalarType stored_dtype = at::kFloat;  ///< of the released weights
};

/// Reads the keys that Llama-like decoders share, in the dialects of transformers 4 and 5
/// (rope_theta or rope_parameters, torch_dtype or dtype), and refuses by name what the blocks
/// cannot do: sliding windows in use, rope types other than "default", activations other than
/// silu, attention_bias (unless the architecture has qkv_bias), mlp_bias, dropout, pruned heads,
/// quantised weights, critics of more than one label, heads wider than 512, impossible sizes.
///
/// `architecture` states what no config.json says (qkv_bias, qk_norm) and the architecture's own
/// values of keys that may be missing; a head_dim of 0 there means hidden_size / heads.
DecoderConfig parse_decoder_config(const HfConfig& hf, const DecoderConfig& architecture = {});

}  // namespace archon
