#include "archon/model/config.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "archon/base/error.hpp"
#include "archon/io/json.hpp"
#include "kernels.hpp"

namespace archon {
namespace {

/// The value of `key`, or nullptr when it is missing or null.
const Json* find(const Json& object, const std::string& key) {
  const auto entry = object.find(key);
  return entry == object.end() || entry->is_null() ? nullptr : &*entry;
}

[[noreturn]] void throw_wrong_type(const HfConfig& hf, const std::string& key, const Json& value,
                                   const char* wanted) {
  throw InputError(fmt::format("{}: \"{}\" is {}, but must be {}; correct the file", hf.source(),
                               key, value.dump(), wanted));
}

int64_t integer_of(const HfConfig& hf, const std::string& key, const Json& value) {
  const bool fits = value.is_number_integer() &&
                    !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX);
  if (!fits) throw_wrong_type(hf, key, value, "an integer");
  return value.get<int64_t>();
}

double number_of(const HfConfig& hf, const std::string& key, const Json& value) {
  if (!value.is_number()) throw_wrong_type(hf, key, value, "a number");
  return value.get<double>();
}

std::string text_of(const HfConfig& hf, const std::string& key, const Json& value) {
  if (!value.is_string()) throw_wrong_type(hf, key, value, "a string");
  return value.get<std::string>();
}

/// The largest extents that still are a model: products of two stay far inside int64.
constexpr int64_t kLargestExtent = int64_t{1} << 30;
constexpr int64_t kMostLayers = 100'000;

int64_t extent(const HfConfig& hf, const std::string& key, int64_t value,
               int64_t largest = kLargestExtent) {
  ARCHON_VALIDATE(value >= 1 && value <= largest,
                  "{}: \"{}\" is {}, which makes no model; give a number from 1 to {}", hf.source(),
                  key, value, largest);
  return value;
}

void parse_sizes(const HfConfig& hf, DecoderConfig& config) {
  config.hidden_size = extent(hf, "hidden_size", hf.integer("hidden_size"));
  config.intermediate_size = extent(hf, "intermediate_size", hf.integer("intermediate_size"));
  config.vocab_size = extent(hf, "vocab_size", hf.integer("vocab_size"));
  config.num_layers = extent(hf, "num_hidden_layers", hf.integer("num_hidden_layers"), kMostLayers);
}

void parse_heads(const HfConfig& hf, DecoderConfig& config) {
  config.num_heads = extent(hf, "num_attention_heads", hf.integer("num_attention_heads"));
  config.num_kv_heads =
      extent(hf, "num_key_value_heads", hf.integer("num_key_value_heads", config.num_heads));
  ARCHON_VALIDATE(config.num_heads % config.num_kv_heads == 0,
                  "{}: \"num_attention_heads\" {} is not a multiple of \"num_key_value_heads\" {}, "
                  "so the query heads cannot share the key heads evenly; correct one of them",
                  hf.source(), config.num_heads, config.num_kv_heads);
  if (find(hf.json(), "head_dim") == nullptr && config.head_dim == 0) {
    ARCHON_VALIDATE(config.hidden_size % config.num_heads == 0,
                    "{}: \"hidden_size\" {} is not a multiple of \"num_attention_heads\" {}, and "
                    "there is no \"head_dim\"; add it",
                    hf.source(), config.hidden_size, config.num_heads);
    config.head_dim = config.hidden_size / config.num_heads;
  }
  config.head_dim = extent(hf, "head_dim", hf.integer("head_dim", config.head_dim));
  ARCHON_VALIDATE(config.head_dim % 2 == 0,
                  "{}: the head dimension {} is odd, but rotary embedding turns pairs of elements; "
                  "\"head_dim\" (or \"hidden_size\" / \"num_attention_heads\") must be even",
                  hf.source(), config.head_dim);
  ARCHON_VALIDATE(config.head_dim <= kernels::kMaxHeadDim,
                  "{}: the head dimension {} is more than {}, the largest that is implemented; "
                  "choose another model, or correct \"head_dim\" (or \"hidden_size\" / "
                  "\"num_attention_heads\")",
                  hf.source(), config.head_dim, kernels::kMaxHeadDim);
  ARCHON_VALIDATE(
      config.num_heads * config.head_dim <= kLargestExtent,
      "{}: \"num_attention_heads\" {} x \"head_dim\" {} is more than {}, which makes no "
      "model; correct one of them",
      hf.source(), config.num_heads, config.head_dim, kLargestExtent);
}

/// transformers 5 keeps everything in rope_parameters; transformers 4 has rope_theta, and
/// rope_scaling for types other than the default, which older files call "type".
void parse_rope(const HfConfig& hf, DecoderConfig& config) {
  config.rope_theta = hf.number("rope_theta", config.rope_theta);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* rope = find(hf.json(), key);
    if (rope == nullptr) continue;
    if (!rope->is_object()) throw_wrong_type(hf, key, *rope, "an object");
    for (const char* type_key : {"rope_type", "type"}) {
      const Json* type = find(*rope, type_key);
      if (type != nullptr && text_of(hf, fmt::format("{}.{}", key, type_key), *type) != "default") {
        hf.refuse(fmt::format("{}.{}", key, type_key),
                  "only the rope type \"default\" is implemented");
      }
    }
    for (const auto& [name, value] : rope->items()) {
      if (value.is_object()) {
        hf.refuse(fmt::format("{}.{}", key, name),
                  "rotary embeddings that differ from layer to layer are not implemented");
      }
    }
    if (const Json* theta = find(*rope, "rope_theta")) {
      config.rope_theta = number_of(hf, fmt::format("{}.rope_theta", key), *theta);
    }
    const Json* share = find(*rope, "partial_rotary_factor");
    if (share != nullptr && number_of(hf, "partial_rotary_factor", *share) != 1.0) {
      hf.refuse(fmt::format("{}.partial_rotary_factor", key),
                "rotary embedding of a part of each head is not implemented");
    }
  }
  if (hf.number("partial_rotary_factor", 1.0) != 1.0) {
    hf.refuse("partial_rotary_factor",
              "rotary embedding of a part of each head is not implemented");
  }
  ARCHON_VALIDATE(std::isfinite(config.rope_theta) && config.rope_theta > 0,
                  "{}: \"rope_theta\" is {}, but must be positive; correct the file", hf.source(),
                  config.rope_theta);
}

/// A window that is configured but switched off (use_sliding_window false) is ignored.
void refuse_sliding_window(const HfConfig& hf) {
  const std::string why = "sliding-window attention is not implemented";
  if (hf.boolean("use_sliding_window", false)) hf.refuse("use_sliding_window", why);
  const bool has_switch = find(hf.json(), "use_sliding_window") != nullptr;
  if (!has_switch && find(hf.json(), "sliding_window") != nullptr) hf.refuse("sliding_window", why);

  const Json* types = find(hf.json(), "layer_types");
  if (types == nullptr) return;
  if (!types->is_array()) throw_wrong_type(hf, "layer_types", *types, "a list of strings");
  for (const Json& type : *types) {
    if (text_of(hf, "layer_types", type) != "full_attention") {
      hf.refuse("layer_types", "only \"full_attention\" layers are implemented");
    }
  }
}

void refuse_what_blocks_cannot_do(const HfConfig& hf, const DecoderConfig& config) {
  refuse_sliding_window(hf);
  if (hf.text("hidden_act", "silu") != "silu") {
    hf.refuse("hidden_act", "the only activation implemented is \"silu\" (SwiGLU)");
  }
  if (hf.boolean("attention_bias", false) && !config.qkv_bias) {
    hf.refuse("attention_bias", "this architecture's attention projections have no bias here");
  }
  if (hf.boolean("mlp_bias", false)) hf.refuse("mlp_bias", "MLP projections have no bias here");
  for (const char* key : {"attention_dropout", "classifier_dropout", "hidden_dropout"}) {
    if (hf.number(key, 0.0) != 0.0) hf.refuse(key, "dropout is not implemented; set it to 0");
  }
  const Json* pruned = find(hf.json(), "pruned_heads");
  if (pruned != nullptr && !pruned->empty()) hf.refuse("pruned_heads", "heads cannot be pruned");
  if (find(hf.json(), "quantization_config") != nullptr) {
    hf.refuse("quantization_config", "quantised weights cannot be trained; use the original ones");
  }
}

void parse_head(const HfConfig& hf, DecoderConfig& config) {
  const std::string architecture = hf.architecture();
  config.critic = architecture.ends_with("ForTokenClassification");
  if (!config.critic) {
    if (!architecture.empty() && !architecture.ends_with("ForCausalLM")) {
      hf.refuse("architectures", "only ...ForCausalLM and ...ForTokenClassification are known");
    }
    return;
  }
  // With neither key there the weights decide: a score of another shape is refused on loading.
  int64_t labels = hf.integer("num_labels", 1);
  std::string key = "num_labels";
  if (const Json* names = find(hf.json(), "id2label")) {
    if (!names->is_object()) throw_wrong_type(hf, "id2label", *names, "an object");
    labels = static_cast<int64_t>(names->size());
    key = "id2label";
  }
  if (labels != 1) hf.refuse(key, "a critic has one label, its value");
  if (hf.boolean("token_classification_bias", false)) {
    hf.refuse("token_classification_bias", "the score head of a critic has no bias here");
  }
}

at::ScalarType parse_dtype(const HfConfig& hf, at::ScalarType missing) {
  const std::string key = find(hf.json(), "dtype") != nullptr ? "dtype" : "torch_dtype";
  const std::string name = hf.text(key, "");
  if (name.empty()) return missing;
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16") return at::kHalf;
  hf.refuse(key, "weights are float32, bfloat16 or float16");
}

double non_negative(const HfConfig& hf, const std::string& key, double missing) {
  const double value = hf.number(key, missing);
  ARCHON_VALIDATE(std::isfinite(value) && value >= 0,
                  "{}: \"{}\" is {}, but must not be negative; correct the file", hf.source(), key,
                  value);
  return value;
}

}  // namespace

HfConfig::HfConfig(Json json, std::string source)
    : json_(std::make_shared<const Json>(std::move(json))), source_(std::move(source)) {
  ARCHON_VALIDATE(json_->is_object(),
                  "{} holds no JSON object, but a HuggingFace config is one; is it the right file?",
                  source_);
}

HfConfig HfConfig::read(const std::string& folder_or_file) {
  std::filesystem::path path = folder_or_file;
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) path /= "config.json";
  return {read_json_file(path.string()), path.string()};
}

std::string HfConfig::model_type() const {
  const std::string type = text("model_type", "");
  ARCHON_VALIDATE(!type.empty(),
                  "{} has no \"model_type\", which says what kind of model it is; add it, for "
                  "example \"qwen3\"",
                  source_);
  return type;
}

std::string HfConfig::architecture() const {
  const Json* names = find(*json_, "architectures");
  if (names == nullptr) return "";
  if (!names->is_array()) {
    throw_wrong_type(*this, "architectures", *names, "a list of strings");
  }
  return names->empty() ? "" : text_of(*this, "architectures", names->front());
}

int64_t HfConfig::integer(const std::string& key) const {
  const Json* value = find(*json_, key);
  ARCHON_VALIDATE(value != nullptr, "{} has no \"{}\", which the model needs; add it", source_,
                  key);
  return integer_of(*this, key, *value);
}

int64_t HfConfig::integer(const std::string& key, int64_t missing) const {
  const Json* value = find(*json_, key);
  return value == nullptr ? missing : integer_of(*this, key, *value);
}

double HfConfig::number(const std::string& key, double missing) const {
  const Json* value = find(*json_, key);
  return value == nullptr ? missing : number_of(*this, key, *value);
}

bool HfConfig::boolean(const std::string& key, bool missing) const {
  const Json* value = find(*json_, key);
  if (value == nullptr) return missing;
  if (!value->is_boolean()) throw_wrong_type(*this, key, *value, "true or false");
  return value->get<bool>();
}

std::string HfConfig::text(const std::string& key, const std::string& missing) const {
  const Json* value = find(*json_, key);
  return value == nullptr ? missing : text_of(*this, key, *value);
}

void HfConfig::refuse(const std::string& key, const std::string& why) const {
  // A dot leads into an object: "rope_parameters.rope_type".
  const Json* value = json_.get();
  for (std::size_t begin = 0; value != nullptr && begin <= key.size();) {
    const std::size_t end = std::min(key.find('.', begin), key.size());
    value = value->is_object() ? find(*value, key.substr(begin, end - begin)) : nullptr;
    begin = end + 1;
  }
  throw InputError(fmt::format("{}: \"{}\" is {}; {}; choose another model, or change the config",
                               source_, key, value == nullptr ? "missing" : value->dump(), why));
}

DecoderConfig parse_decoder_config(const HfConfig& hf, const DecoderConfig& architecture) {
  DecoderConfig config = architecture;
  config.model_type = hf.model_type();
  parse_sizes(hf, config);
  parse_heads(hf, config);
  parse_rope(hf, config);
  parse_head(hf, config);
  refuse_what_blocks_cannot_do(hf, config);
  config.rms_norm_eps = non_negative(hf, "rms_norm_eps", config.rms_norm_eps);
  config.initializer_range = non_negative(hf, "initializer_range", config.initializer_range);
  config.tied_embeddings = hf.boolean("tie_word_embeddings", config.tied_embeddings);
  config.stored_dtype = parse_dtype(hf, config.stored_dtype);
  return config;
}

}  // namespace archon
