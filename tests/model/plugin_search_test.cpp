// The order in which plugins are found. What a process has loaded stays, so the cases build on
// each other.
#include "archon/model/plugin_loader.hpp"
#include "archon/model/registry.hpp"
#include "model/support.hpp"

namespace {

using namespace archon::test;
using archon::load_plugins;
using archon::LoadedPlugin;
using archon::ModelRegistry;

LoadedPlugin find(const std::vector<LoadedPlugin>& plugins, const std::string& name) {
  LoadedPlugin found;
  int count = 0;
  for (const LoadedPlugin& plugin : plugins) {
    if (plugin.name != name) continue;
    found = plugin;
    ++count;
  }
  BOOST_TEST_CONTEXT(name) { BOOST_TEST(count == 1); }
  return found;
}

BOOST_AUTO_TEST_CASE(a_wrong_search_path_is_refused) {
  setenv("ARCHON_PLUGIN_PATH", "/no/such/folder", 1);
  check_throws([] { load_plugins({}); }, {"ARCHON_PLUGIN_PATH", "/no/such/folder"});
  unsetenv("ARCHON_PLUGIN_PATH");
  check_throws([] { load_plugins({"absent.so"}); }, {"absent.so"});
}

BOOST_AUTO_TEST_CASE(earlier_places_win_and_the_rest_is_added) {
  const TempFolder folder;
  fs::copy_file(test_plugin("other_qwen3"), folder / "mine.so");
  write_bytes(folder / "readme.txt", "no plugin, and not looked at");
  setenv("ARCHON_PLUGIN_PATH", ("::" + folder.string() + ":").c_str(), 1);
  const auto plugins = load_plugins({});
  unsetenv("ARCHON_PLUGIN_PATH");
  BOOST_TEST(find(plugins, "qwen3").version == "99.0");
  BOOST_TEST(find(plugins, "qwen2").version == "1.0");
  BOOST_TEST(fs::path(find(plugins, "qwen2").file) == fs::canonical(built_plugin("qwen2")));
  BOOST_TEST(fs::path(ModelRegistry::instance().find("qwen3").plugin).filename() == "mine.so");
}

BOOST_AUTO_TEST_CASE(searching_again_changes_nothing) {
  const auto plugins = load_plugins({built_plugin("qwen2").string()});
  BOOST_TEST(plugins.size() == 3u);
  BOOST_TEST(find(plugins, "qwen3").version == "99.0");
}

BOOST_AUTO_TEST_CASE(a_broken_plugin_in_a_folder_is_told) {
  const TempFolder folder;
  write_bytes(folder / "broken.so", "text");
  setenv("ARCHON_PLUGIN_PATH", folder.string().c_str(), 1);
  check_throws([] { load_plugins({}); }, {"broken.so", "not a shared object"});
  unsetenv("ARCHON_PLUGIN_PATH");
}

}  // namespace
