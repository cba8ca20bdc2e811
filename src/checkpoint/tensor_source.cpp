#include "tensor_source.hpp"

#include <filesystem>

#include "archon/io/safetensors.hpp"

namespace archon {
namespace {

class Hdf5Source : public TensorSource {
 public:
  explicit Hdf5Source(const std::string& path) : file_(h5::File::open(path)) {}

  std::map<std::string, h5::DatasetInfo> list() const override {
    std::map<std::string, h5::DatasetInfo> all;
    for (h5::DatasetInfo& info : file_.datasets()) all.emplace(info.path, std::move(info));
    return all;
  }

  at::Tensor read(const h5::DatasetInfo& info, int64_t begin, int64_t count,
                  at::ScalarType dtype) const override {
    if (info.shape.empty()) return file_.read(info.path, dtype);
    return file_.read_rows(info.path, begin, count, dtype);
  }

 private:
  h5::File file_;
};

class WeightSource : public TensorSource {
 public:
  explicit WeightSource(const std::string& folder) : weights_(folder) {}

  std::map<std::string, h5::DatasetInfo> list() const override {
    std::map<std::string, h5::DatasetInfo> all;
    for (const std::string& name : weights_.names()) {
      const SafetensorsEntry& entry = weights_.entry(name);
      all.emplace(name, h5::DatasetInfo{name, entry.shape, entry.dtype});
    }
    return all;
  }

  at::Tensor read(const h5::DatasetInfo& info, int64_t begin, int64_t count,
                  at::ScalarType dtype) const override {
    const at::Tensor whole = weights_.view(info.path);
    const at::Tensor rows = info.shape.empty() ? whole : whole.narrow(0, begin, count);
    return rows.to(dtype).contiguous();
  }

 private:
  WeightFolder weights_;
};

}  // namespace

std::unique_ptr<TensorSource> open_tensor_source(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return std::make_unique<WeightSource>(path);
  return std::make_unique<Hdf5Source>(path);
}

}  // namespace archon
