#include <cctype>
#include <string_view>

#include "archon/base/error.hpp"
#include "archon/model/state_dict.hpp"

namespace archon {
namespace {

constexpr std::string_view kHole = "{}";

bool is_layer_number(std::string_view text) {
  if (text.empty() || (text.size() > 1 && text.front() == '0')) return false;
  for (const char c : text) {
    if (std::isdigit(static_cast<unsigned char>(c)) == 0) return false;
  }
  return true;
}

/// `name` rewritten from pattern `from` to pattern `to`; nothing when it does not match.
std::optional<std::string> rewrite(std::string_view name, std::string_view from,
                                   const std::string& to) {
  const std::size_t hole = from.find(kHole);
  if (hole == std::string_view::npos) {
    return name == from ? std::optional(to) : std::nullopt;
  }
  const std::string_view before = from.substr(0, hole);
  const std::string_view after = from.substr(hole + kHole.size());
  if (name.size() < before.size() + after.size() || !name.starts_with(before) ||
      !name.ends_with(after)) {
    return std::nullopt;
  }
  const std::string_view layer =
      name.substr(before.size(), name.size() - before.size() - after.size());
  if (!is_layer_number(layer)) return std::nullopt;
  return std::string(to).replace(to.find(kHole), kHole.size(), layer);
}

void erase_all(std::string& text, std::string_view what) {
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at)) {
    text.erase(at, what.size());
  }
}

}  // namespace

std::optional<std::string> StateDictAdapter::to_internal(const std::string& hf_name) const {
  std::string name = hf_name;
  erase_all(name, "_orig_mod.");
  erase_all(name, "._orig_mod");
  for (const auto& [hf, internal] : rules_) {
    if (auto found = rewrite(name, hf, internal)) return found;
  }
  return std::nullopt;
}

std::string StateDictAdapter::to_hf(const std::string& internal_name) const {
  for (const auto& [hf, internal] : rules_) {
    if (const auto found = rewrite(internal_name, internal, hf)) return *found;
  }
  throw RuntimeFailure(fmt::format(
      "the state-dict adapter has no HuggingFace name for the parameter {}; add a rule for it",
      internal_name));
}

StateDictAdapter decoder_state_dict_adapter() {
  const std::string hf = "model.layers.{}.";
  const std::string own = "layers.{}.";
  return StateDictAdapter({
      {"model.embed_tokens.weight", "embedding.weight"},
      {hf + "input_layernorm.weight", own + "attention_norm.weight"},
      {hf + "self_attn.q_proj.weight", own + "attention.query.weight"},
      {hf + "self_attn.q_proj.bias", own + "attention.query.bias"},
      {hf + "self_attn.k_proj.weight", own + "attention.key.weight"},
      {hf + "self_attn.k_proj.bias", own + "attention.key.bias"},
      {hf + "self_attn.v_proj.weight", own + "attention.value.weight"},
      {hf + "self_attn.v_proj.bias", own + "attention.value.bias"},
      {hf + "self_attn.o_proj.weight", own + "attention.output.weight"},
      {hf + "self_attn.q_norm.weight", own + "attention.query_norm.weight"},
      {hf + "self_attn.k_norm.weight", own + "attention.key_norm.weight"},
      {hf + "post_attention_layernorm.weight", own + "mlp_norm.weight"},
      {hf + "mlp.gate_proj.weight", own + "mlp.gate.weight"},
      {hf + "mlp.up_proj.weight", own + "mlp.up.weight"},
      {hf + "mlp.down_proj.weight", own + "mlp.down.weight"},
      {"model.norm.weight", "final_norm.weight"},
      {"lm_head.weight", "head.weight"},
      {"score.weight", "score.weight"},
  });
}

}  // namespace archon
