#include "archon/model/plugin_loader.hpp"

#include <elf.h>

#include <cstring>

#include "archon/io/json.hpp"
#include "archon/model/plugin.hpp"
#include "archon/model/registry.hpp"
#include "model/support.hpp"

namespace {

using namespace archon::test;
using archon::HfConfig;
using archon::load_plugin;
using archon::LoadedPlugin;
using archon::ModelRegistry;
using archon::PluginDescriptor;

/// Bytes of a plugin whose descriptor `change` has changed.
template <class Change>
std::string patched(const fs::path& plugin, Change change) {
  std::string bytes = read_bytes(plugin);
  const std::size_t at = bytes.find(std::string(archon::kPluginMagic, 8));
  BOOST_REQUIRE(at != std::string::npos);
  PluginDescriptor descriptor;
  std::memcpy(&descriptor, bytes.data() + at, sizeof descriptor);
  change(descriptor);
  std::memcpy(bytes.data() + at, &descriptor, sizeof descriptor);
  return bytes;
}

/// Writes `bytes` as a plugin and loads it.
void load_bytes(const TempFolder& folder, const std::string& bytes) {
  static int count = 0;
  const fs::path file = folder / (std::to_string(count++) + ".so");
  write_bytes(file, bytes);
  load_plugin(file.string());
}

BOOST_AUTO_TEST_CASE(files_that_are_no_shared_object) {
  const TempFolder folder;
  write_bytes(folder / "empty.so", "");
  write_bytes(folder / "text.so", std::string(5000, 'x'));
  write_bytes(folder / "short.so",
              "\x7f"
              "ELF");
  for (const char* name : {"empty.so", "text.so", "short.so"}) {
    check_throws([&] { load_plugin((folder / name).string()); }, {name, "not a shared object"});
  }
  check_throws([&] { load_plugin(folder.string()); }, {folder.string(), "not a shared object"});
  check_throws([&] { load_plugin((folder / "absent.so").string()); }, {"absent.so", "cannot find"});
}

BOOST_AUTO_TEST_CASE(shared_objects_that_are_no_plugin) {
  check_throws([] { load_plugin(test_plugin("no_descriptor").string()); },
               {"no_descriptor.so", "no Archon plugin", ".archon_plugin"});
  check_throws([] { load_plugin(test_plugin("no_register").string()); },
               {"no_register.so", "archon_register_plugin"});
  check_throws([] { load_plugin(test_plugin("undefined_symbol").string()); },
               {"undefined_symbol.so", "function_that_nobody_defines"});
}

BOOST_AUTO_TEST_CASE(mismatches_say_both_versions_and_run_nothing) {
  const TempFolder folder;
  const fs::path plugin = test_plugin("has_constructor");
  const auto refuse = [&](auto change, std::initializer_list<std::string> needles) {
    check_throws([&] { load_bytes(folder, patched(plugin, change)); }, needles);
  };
  refuse([](PluginDescriptor& d) { d.abi_version = 77; },
         {"ABI version 77", "has " + std::to_string(archon::kPluginAbiVersion)});
  refuse([](PluginDescriptor& d) { std::strcpy(d.torch_version, "1.2.3"); },
         {"LibTorch 1.2.3", "uses LibTorch " TORCH_VERSION});
  refuse([](PluginDescriptor& d) { std::strcpy(d.compiler_abi, "gxx_abi=2"); },
         {"\"gxx_abi=2\"", ARCHON_COMPILER_ABI});
  refuse([](PluginDescriptor& d) { std::memset(d.torch_version, 'x', sizeof d.torch_version); },
         {"LibTorch xxxx"});  // without an end
  refuse([](PluginDescriptor& d) { d.size = 12; }, {"12 bytes"});
  refuse([](PluginDescriptor& d) { d.magic[0] = 'X'; }, {"Archon's mark"});
  refuse([](PluginDescriptor& d) { d.name[0] = '\0'; }, {"no name"});
  BOOST_TEST(std::getenv("ARCHON_TEST_CONSTRUCTED") == nullptr);

  load_plugin(plugin.string());  // the same file unpatched: the check above means something
  BOOST_TEST(std::getenv("ARCHON_TEST_CONSTRUCTED") != nullptr);
}

BOOST_AUTO_TEST_CASE(a_file_cut_short_anywhere_is_refused) {
  const TempFolder folder;
  const std::string whole = read_bytes(test_plugin("no_register"));
  for (std::size_t size = 0; size < whole.size(); size += size < 256 ? 8 : 509) {
    BOOST_TEST_CONTEXT("cut at " << size) {
      check_throws([&] { load_bytes(folder, whole.substr(0, size)); }, {"not a shared object"});
    }
  }
}

BOOST_AUTO_TEST_CASE(damaged_section_tables_are_refused) {
  const TempFolder folder;
  const std::string whole = read_bytes(test_plugin("no_register"));
  Elf64_Ehdr header;
  std::memcpy(&header, whole.data(), sizeof header);
  // Fields that the system's own loader does not read: it would trust a damaged file and crash.
  std::vector<std::pair<std::size_t, std::size_t>> fields = {
      {offsetof(Elf64_Ehdr, e_shoff), sizeof header.e_shoff},
      {offsetof(Elf64_Ehdr, e_shnum), sizeof header.e_shnum},
      {offsetof(Elf64_Ehdr, e_shentsize), sizeof header.e_shentsize},
      {offsetof(Elf64_Ehdr, e_shstrndx), sizeof header.e_shstrndx}};
  for (unsigned section = 0; section < header.e_shnum; ++section) {
    const std::size_t at = header.e_shoff + section * sizeof(Elf64_Shdr);
    fields.emplace_back(at + offsetof(Elf64_Shdr, sh_name), sizeof(Elf64_Word));
    fields.emplace_back(at + offsetof(Elf64_Shdr, sh_type), sizeof(Elf64_Word));
    fields.emplace_back(at + offsetof(Elf64_Shdr, sh_offset), sizeof(Elf64_Off));
    fields.emplace_back(at + offsetof(Elf64_Shdr, sh_size), sizeof(Elf64_Xword));
  }
  for (const auto& [field, size] : fields) {
    for (const char value : {'\0', '\x7f', '\xff'}) {
      for (std::size_t byte = 0; byte <= size; ++byte) {
        std::string damaged = whole;  // one byte of the field, or all of them
        if (byte < size) damaged[field + byte] = value;
        if (byte == size) damaged.replace(field, size, std::string(size, value));
        // What still can be read lacks the register function: no damage may end in a load.
        BOOST_TEST_CONTEXT("byte " << field + byte) {
          check_throws([&] { load_bytes(folder, damaged); }, {".so"});
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(other_kinds_of_elf_files_are_refused) {
  const TempFolder folder;
  const auto with = [&](std::size_t at, char value) {
    std::string bytes = read_bytes(test_plugin("no_register"));
    bytes[at] = value;
    return bytes;
  };
  check_throws([&] { load_bytes(folder, with(EI_CLASS, ELFCLASS32)); }, {"64-bit"});
  check_throws([&] { load_bytes(folder, with(EI_DATA, ELFDATA2MSB)); }, {"little-endian"});
  check_throws([&] { load_bytes(folder, with(offsetof(Elf64_Ehdr, e_type), ET_REL)); },
               {"ELF type is 1"});
}

BOOST_AUTO_TEST_CASE(a_plugin_is_loaded_once) {
  const LoadedPlugin first = load_plugin(built_plugin("qwen3").string());
  BOOST_TEST(first.name == "qwen3");
  BOOST_TEST(first.version == "1.0");
  const TempFolder folder;
  fs::create_symlink(built_plugin("qwen3"), folder / "link.so");
  const LoadedPlugin again = load_plugin((folder / "link.so").string());
  BOOST_TEST(again.file == first.file);
  BOOST_TEST(ModelRegistry::instance().find("qwen3").plugin == first.file);
}

BOOST_AUTO_TEST_CASE(names_and_types_that_clash_name_both_plugins) {
  const std::string qwen3 = load_plugin(built_plugin("qwen3").string()).file;
  check_throws([] { load_plugin(test_plugin("other_qwen3").string()); },
               {"other_qwen3.so", qwen3, "\"qwen3\""});
  check_throws([] { load_plugin(test_plugin("same_type").string()); },
               {"same_type.so", qwen3, "\"qwen3\"", "twice"});
  BOOST_TEST(ModelRegistry::instance().find("qwen3").plugin == qwen3);
}

BOOST_AUTO_TEST_CASE(qwen_plugins_state_what_they_are) {
  load_plugin(built_plugin("qwen2").string());
  load_plugin(built_plugin("qwen3").string());
  const auto parse = [](const std::string& name, const char* without) {
    archon::Json json = HfConfig::read(golden(name + "/model").string()).json();
    json.erase(without);
    const HfConfig hf(json, name);
    return ModelRegistry::instance().find(hf.model_type()).parse_config(hf);
  };
  const archon::DecoderConfig qwen2 = parse("q2_tiny_tied", "");
  BOOST_TEST(qwen2.qkv_bias);
  BOOST_TEST(!qwen2.qk_norm);
  BOOST_TEST(qwen2.tied_embeddings);
  BOOST_TEST(qwen2.head_dim == 16);
  BOOST_TEST(qwen2.rope_theta == 1e4);
  BOOST_TEST(parse("q2_critic", "").critic);
  const archon::DecoderConfig qwen3 = parse("q3_tiny", "");
  BOOST_TEST(!qwen3.qkv_bias);
  BOOST_TEST(qwen3.qk_norm);
  BOOST_TEST(!qwen3.tied_embeddings);
  BOOST_TEST(qwen3.head_dim == 32);
  BOOST_TEST(qwen3.rope_theta == 1e6);
  BOOST_TEST(parse("q3_tiny", "head_dim").head_dim == 128);
}

}  // namespace
