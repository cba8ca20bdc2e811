#pragma once

/// The one header a plugin includes: of model architectures, of reward functions, or of both.
///
/// A plugin is a shared object that holds a descriptor in the ELF section ".archon_plugin", which
/// the loader reads before it opens the file, and one register function:
///
///     #include <archon/model/plugin.hpp>
///     ARCHON_PLUGIN("llama", "1.0", registry) {
///       registry.add(archon::decoder_model_spec("llama", parse));
///     }
///
/// where `parse` is a DecoderConfig(const archon::HfConfig&). One ARCHON_PLUGIN per shared object;
/// it may register several architectures and rewards (archon/model/reward.hpp shows one).

#include <torch/headeronly/version.h>

#include <cstddef>
#include <cstdint>

#include "archon/model/registry.hpp"
#include "archon/model/reward.hpp"

namespace archon {

/// Raised whenever a type that crosses the plugin boundary changes.
inline constexpr std::uint32_t kPluginAbiVersion = 3;
inline constexpr char kPluginMagic[8] = {'A', 'R', 'C', 'H', 'P', 'L', 'U', 'G'};

/// Plain bytes, fixed layout (little-endian), so that it can be read out of the file.
struct PluginDescriptor {
  char magic[8];
  std::uint32_t abi_version;
  std::uint32_t size;  ///< sizeof(PluginDescriptor)
  char torch_version[32];
  char compiler_abi[64];
  char name[64];
  char version[32];
};

namespace detail {
template <std::size_t N, std::size_t M>
constexpr void copy_text(char (&to)[N], const char (&from)[M]) {
  static_assert(M <= N, "plugin name or version too long");
  for (std::size_t i = 0; i < M; ++i) to[i] = from[i];
}
}  // namespace detail

#define ARCHON_DETAIL_TEXT2(x) #x
#define ARCHON_DETAIL_TEXT(x) ARCHON_DETAIL_TEXT2(x)
/// C++ ABI that both sides must share: compiler family's ABI number and the string ABI.
#define ARCHON_COMPILER_ABI                                                      \
  "gxx_abi=" ARCHON_DETAIL_TEXT(__GXX_ABI_VERSION) " cxx11=" ARCHON_DETAIL_TEXT( \
      _GLIBCXX_USE_CXX11_ABI)

/// `torch` is the LibTorch version that the plugin was compiled with.
template <std::size_t T, std::size_t N, std::size_t V>
constexpr PluginDescriptor make_plugin_descriptor(const char (&torch)[T], const char (&name)[N],
                                                  const char (&version)[V]) {
  PluginDescriptor descriptor{};
  for (int i = 0; i < 8; ++i) descriptor.magic[i] = kPluginMagic[i];
  descriptor.abi_version = kPluginAbiVersion;
  descriptor.size = sizeof(PluginDescriptor);
  detail::copy_text(descriptor.torch_version, torch);
  detail::copy_text(descriptor.compiler_abi, ARCHON_COMPILER_ABI);
  detail::copy_text(descriptor.name, name);
  detail::copy_text(descriptor.version, version);
  return descriptor;
}

/// What a plugin's register function adds to. It names the plugin's file in all that is added.
class PluginRegistry {
 public:
  explicit PluginRegistry(std::string file) : file_(std::move(file)) {}
  void add(ModelSpec spec) const;
  void add_reward(std::string name, std::function<std::unique_ptr<RewardFunction>()> make) const;

 private:
  std::string file_;
};

}  // namespace archon

#define ARCHON_PLUGIN_SECTION ".archon_plugin"
#define ARCHON_PLUGIN_REGISTER archon_register_plugin

/// Defines the descriptor and begins the register function, whose body follows. `NAME` and
/// `VERSION` are string literals; `registry` names the archon::PluginRegistry& of the body.
#define ARCHON_PLUGIN(NAME, VERSION, registry)                                                     \
  namespace {                                                                                      \
  __attribute__((                                                                                  \
      used, retain,                                                                                \
      section(                                                                                     \
          ARCHON_PLUGIN_SECTION))) constexpr ::archon::PluginDescriptor archon_plugin_descriptor = \
      ::archon::make_plugin_descriptor(TORCH_VERSION, NAME, VERSION);                              \
  }                                                                                                \
  extern "C" __attribute__((visibility("default"))) void ARCHON_PLUGIN_REGISTER(                   \
      [[maybe_unused]] const ::archon::PluginRegistry& registry)
