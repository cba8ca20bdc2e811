#include "plugin_descriptor.hpp"

#include <elf.h>

#include <bit>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string_view>

#include "archon/base/error.hpp"
#include "archon/base/version.hpp"
#include "archon/io/mapped_file.hpp"

namespace archon {
namespace {

static_assert(std::endian::native == std::endian::little, "the descriptor is little-endian");

[[noreturn]] void throw_not_a_plugin(const std::string& file, const std::string& why) {
  throw InputError(fmt::format(
      "{} is not a shared object that can be a plugin: {}; give the .so file that a plugin's build "
      "made",
      file, why));
}

/// A file's bytes, read without ever leaving them.
class ElfFile {
 public:
  explicit ElfFile(const std::string& path) : path_(path), file_(path) {}

  /// Bytes of the section of that name, or nothing.
  std::optional<std::string_view> section(std::string_view name) const {
    const auto header = read<Elf64_Ehdr>(0);
    check_header(header);
    const Elf64_Shdr names = section_header(header, header.e_shstrndx);
    for (unsigned index = 1; index < header.e_shnum; ++index) {
      const Elf64_Shdr candidate = section_header(header, index);
      if (candidate.sh_type == SHT_PROGBITS && name_of(names, candidate.sh_name) == name) {
        return bytes(candidate.sh_offset, candidate.sh_size);
      }
    }
    return std::nullopt;
  }

 private:
  std::string_view bytes(uint64_t offset, uint64_t count) const {
    if (offset > file_.size() || count > file_.size() - offset) {
      throw_not_a_plugin(path_, fmt::format("the file of {} bytes is damaged or cut short: it "
                                            "speaks of {} bytes at {}",
                                            file_.size(), count, offset));
    }
    return {reinterpret_cast<const char*>(file_.data()) + offset, count};
  }

  template <class T>
  T read(uint64_t offset) const {
    T value;
    std::memcpy(&value, bytes(offset, sizeof value).data(), sizeof value);
    return value;
  }

  void check_header(const Elf64_Ehdr& header) const {
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
      throw_not_a_plugin(path_, "it does not begin as an ELF file");
    }
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB) {
      throw_not_a_plugin(path_, "it is not a 64-bit little-endian ELF file");
    }
    if (header.e_type != ET_DYN) {
      throw_not_a_plugin(
          path_, fmt::format("its ELF type is {}, not {} (shared object)", header.e_type, ET_DYN));
    }
    if (header.e_shentsize != sizeof(Elf64_Shdr) || header.e_shstrndx >= header.e_shnum) {
      throw_not_a_plugin(path_, "it has no readable section table (stripped away, or damaged)");
    }
  }

  Elf64_Shdr section_header(const Elf64_Ehdr& header, unsigned index) const {
    bytes(header.e_shoff, 0);  // so that the sum below cannot overflow
    return read<Elf64_Shdr>(header.e_shoff + index * sizeof(Elf64_Shdr));
  }

  std::string_view name_of(const Elf64_Shdr& names, uint32_t offset) const {
    std::string_view table = bytes(names.sh_offset, names.sh_size);
    table.remove_prefix(std::min<std::size_t>(offset, table.size()));
    return table.substr(0, table.find('\0'));
  }

  std::string path_;
  MappedFile file_;
};

/// Text of a fixed field, up to its end or first NUL.
template <std::size_t N>
std::string_view text(const char (&field)[N]) {
  return {field, strnlen(field, N)};
}

void check_descriptor(const PluginDescriptor& theirs, const std::string& file) {
  const auto ours = make_plugin_descriptor(TORCH_VERSION, "archon", "");
  ARCHON_VALIDATE(
      text(theirs.torch_version) == text(ours.torch_version),
      "plugin {} was built with LibTorch {}, but this Archon {} uses LibTorch {}: their "
      "tensors differ; build the plugin again with the latter",
      file, text(theirs.torch_version), version(), text(ours.torch_version));
  ARCHON_VALIDATE(
      text(theirs.compiler_abi) == text(ours.compiler_abi),
      "plugin {} was built with the compiler ABI \"{}\", but this Archon {} with \"{}\"; "
      "build the plugin again with a compiler of the same family",
      file, text(theirs.compiler_abi), version(), text(ours.compiler_abi));
  ARCHON_VALIDATE(!text(theirs.name).empty(),
                  "plugin {} has no name in its descriptor; build it with ARCHON_PLUGIN", file);
}

/// Magic, ABI version and size come first, so that they can be read whatever the rest is.
PluginDescriptor parse_descriptor(std::string_view section, const std::string& file) {
  PluginDescriptor descriptor{};
  std::memcpy(&descriptor, section.data(), std::min(section.size(), sizeof descriptor));
  ARCHON_VALIDATE(std::memcmp(descriptor.magic, kPluginMagic, sizeof kPluginMagic) == 0,
                  "plugin {}: the section {} does not begin with Archon's mark; build it with "
                  "ARCHON_PLUGIN",
                  file, ARCHON_PLUGIN_SECTION);
  ARCHON_VALIDATE(
      descriptor.abi_version == kPluginAbiVersion,
      "plugin {} has plugin ABI version {}, but this Archon {} has {}; build the plugin "
      "again with this Archon's headers",
      file, descriptor.abi_version, version(), kPluginAbiVersion);
  ARCHON_VALIDATE(descriptor.size == sizeof descriptor && section.size() == sizeof descriptor,
                  "plugin {}: its descriptor has {} bytes in a section of {}, but should have {}; "
                  "build it with exactly one ARCHON_PLUGIN",
                  file, descriptor.size, section.size(), sizeof descriptor);
  return descriptor;
}

}  // namespace

PluginDescriptor read_plugin_descriptor(const std::string& file) {
  namespace fs = std::filesystem;
  ARCHON_VALIDATE(fs::exists(file), "plugin {} does not exist; check the path", file);
  if (!fs::is_regular_file(file)) throw_not_a_plugin(file, "it is not a regular file");
  if (fs::file_size(file) < sizeof(Elf64_Ehdr)) {
    throw_not_a_plugin(file, fmt::format("it has only {} bytes", fs::file_size(file)));
  }
  const ElfFile elf(file);
  const auto section = elf.section(ARCHON_PLUGIN_SECTION);
  ARCHON_VALIDATE(
      section.has_value(),
      "{} is a shared object, but no Archon plugin: it has no section {}; build it with "
      "ARCHON_PLUGIN (archon/model/plugin.hpp)",
      file, ARCHON_PLUGIN_SECTION);
  const PluginDescriptor descriptor = parse_descriptor(*section, file);
  check_descriptor(descriptor, file);
  return descriptor;
}

}  // namespace archon
