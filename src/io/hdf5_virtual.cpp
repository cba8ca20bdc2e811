#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>

#include "archon/base/error.hpp"
#include "archon/io/files.hpp"
#include "archon/io/hdf5.hpp"
#include "hdf5_check.hpp"

namespace archon::h5 {
namespace {

using SourceName = ssize_t (*)(hid_t properties, size_t mapping, char* name, size_t size);

/// The file or dataset (H5Pget_virtual_filename, H5Pget_virtual_dsetname) of a mapping.
std::string source_name(SourceName get, hid_t properties, std::size_t mapping) {
  const ssize_t length =
      ARCHON_HDF5(InputError, get(properties, mapping, nullptr, 0), "source of a virtual dataset");
  std::string name(static_cast<std::size_t>(length), '\0');
  get(properties, mapping, name.data(), name.size() + 1);
  return name;
}

/// The files that virtual datasets refer to, each opened once.
class SourceFiles {
 public:
  explicit SourceFiles(std::string folder) : folder_(std::move(folder)) {}

  /// What is wrong with a source, or "".
  std::string problem(const std::string& file, const std::string& dataset) {
    const auto [entry, is_new] = files_.try_emplace(file);
    if (is_new) open(file, entry->second);
    const Source& source = entry->second;
    if (!source.file) return source.problem;
    return source.file->has(dataset) ? "" : fmt::format("{} has no dataset {}", file, dataset);
  }

 private:
  struct Source {
    std::optional<File> file;
    std::string problem;
  };

  void open(const std::string& name, Source& source) const {
    try {
      source.file = File::open(name.starts_with('/') ? name : folder_ + "/" + name);
    } catch (const InputError& error) {
      source.problem = error.what();
    }
  }

  std::string folder_;
  std::map<std::string, Source> files_;
};

}  // namespace

std::vector<std::string> File::virtual_gaps() const {
  SourceFiles files(parent_folder(path_));
  std::vector<std::string> gaps;
  const auto add = [&](std::string problem) {
    if (!problem.empty() && std::ranges::find(gaps, problem) == gaps.end())
      gaps.push_back(std::move(problem));
  };
  for (const DatasetInfo& info : datasets()) {
    const Handle dataset(ARCHON_HDF5(InputError,
                                     H5Dopen2(id_.get(), info.path.c_str(), H5P_DEFAULT),
                                     "{}: cannot open {}", path_, info.path));
    const Handle properties(ARCHON_HDF5(InputError, H5Dget_create_plist(dataset.get()),
                                        "{}: layout of {}", path_, info.path));
    if (H5Pget_layout(properties.get()) != H5D_VIRTUAL) continue;
    std::size_t mappings = 0;
    ARCHON_HDF5(InputError, H5Pget_virtual_count(properties.get(), &mappings), "{}: sources of {}",
                path_, info.path);
    int64_t mapped = 0;
    for (std::size_t i = 0; i < mappings; ++i) {
      add(files.problem(source_name(H5Pget_virtual_filename, properties.get(), i),
                        source_name(H5Pget_virtual_dsetname, properties.get(), i)));
      const Handle space(ARCHON_HDF5(InputError, H5Pget_virtual_vspace(properties.get(), i),
                                     "{}: sources of {}", path_, info.path));
      mapped += H5Sget_select_npoints(space.get());
    }
    const int64_t elements =
        std::accumulate(info.shape.begin(), info.shape.end(), int64_t{1}, std::multiplies<>());
    if (mapped != elements)
      add(fmt::format("{} has {} elements, of which its sources hold {}", info.path, elements,
                      mapped));
  }
  return gaps;
}

}  // namespace archon::h5
