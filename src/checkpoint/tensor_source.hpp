#pragma once

#include <map>
#include <memory>
#include <string>

#include "archon/io/hdf5.hpp"

namespace archon {

/// Named tensors that are read block by block: an HDF5 file, a checkpoint, or the weights of a
/// HuggingFace folder.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// By path; dtype Undefined marks what holds no numbers.
  virtual std::map<std::string, h5::DatasetInfo> list() const = 0;
  /// Rows [begin, begin + count), or the whole of a scalar, on the host and without gaps.
  virtual at::Tensor read(const h5::DatasetInfo& info, int64_t begin, int64_t count,
                          at::ScalarType dtype) const = 0;
};

/// A and B, opened so that what belongs together has the same path.
struct TensorSources {
  std::unique_ptr<TensorSource> a, b;
  std::string note;  ///< what is left out of one of them, if anything
};

TensorSources open_tensor_sources(const std::string& a, const std::string& b);

}  // namespace archon
