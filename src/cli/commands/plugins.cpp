#include <algorithm>
#include <iostream>

#include "archon/model/plugin_loader.hpp"
#include "archon/model/registry.hpp"
#include "archon/model/reward.hpp"
#include "command.hpp"
#include "table.hpp"

namespace archon::cli {
namespace {

/// A name and the plugin that registered it.
std::vector<std::string> row(const std::string& name, const std::string& file,
                             const std::vector<LoadedPlugin>& plugins) {
  const auto plugin = std::find_if(plugins.begin(), plugins.end(),
                                   [&](const LoadedPlugin& each) { return each.file == file; });
  const bool found = plugin != plugins.end();
  return {name, found ? plugin->name : "-", found ? plugin->version : "-", file};
}

class PluginsCommand : public LocalCommand {
  void declare(OptionSet& options) override {
    options.group("Options");
    add_plugin_option(options, files_);
    options.add_settings_file();
  }

  std::string details() const override {
    return "Plugins are the files that --plugin names, then the *.so files in the folders of\n"
           "ARCHON_PLUGIN_PATH (with colons between them), then those in archon/plugins beside\n"
           "libarchon. Of several plugins with one name in these folders the first is taken.";
  }

  std::vector<std::pair<std::string, std::string>> examples() const override {
    return {{"archon plugins", "what this installation has"},
            {"archon plugins --plugin ./llama.so", "and one more"}};
  }

  int run() override {
    const auto plugins = load_plugins(files_);
    if (plugins.empty())
      log::warning("no plugin found; set ARCHON_PLUGIN_PATH, or give --plugin FILE");
    Table models, rewards;
    models.add({"model_type", "plugin", "version", "file"});
    for (const ModelSpec* spec : ModelRegistry::instance().all())
      models.add(row(spec->model_type, spec->plugin, plugins));
    rewards.add({"reward", "plugin", "version", "file"});
    for (const RewardSpec* spec : RewardRegistry::instance().all())
      rewards.add(row(spec->name, spec->plugin, plugins));
    models.print(std::cout);
    std::cout << '\n';
    rewards.print(std::cout);
    return 0;
  }

  std::vector<std::string> files_;
};

}  // namespace

std::unique_ptr<Command> make_plugins() { return std::make_unique<PluginsCommand>(); }

}  // namespace archon::cli
