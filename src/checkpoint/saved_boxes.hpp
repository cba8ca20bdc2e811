#pragma once

#include <string>
#include <vector>

#include "archon/io/hdf5.hpp"
#include "box.hpp"

namespace archon {

/// A rectangle of a saved tensor, and where its elements lie one behind the other.
struct SavedBox {
  Box box;
  std::string file;     ///< within the checkpoint's folder
  std::string dataset;  ///< one-dimensional, or the tensor itself
  int64_t begin = 0;    ///< element of the dataset
};

/// Where a tensor of an index lies: boxes that cover it, none over another. InputError when they do
/// not.
std::vector<SavedBox> saved_boxes(const h5::File& index, const h5::DatasetInfo& tensor);

}  // namespace archon
