// A descriptor without the register function.
#include <archon/model/plugin.hpp>

__attribute__((used, retain,
               section(ARCHON_PLUGIN_SECTION))) constexpr archon::PluginDescriptor descriptor =
    archon::make_plugin_descriptor(TORCH_VERSION, "no_register", "1.0");
