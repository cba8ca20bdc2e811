#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "archon/io/hdf5.hpp"
#include "archon/mesh/mesh.hpp"

namespace archon {

/// Where the sequences of a packed stream go in a file of all tokens.
struct TokenPlaces {
  std::vector<int64_t> cu_seqlens;  ///< [N+1] in the stream; behind the last lies padding
  std::vector<int64_t> file_rows;   ///< [N] row of each sequence's first token in the file
};

/// Writes per-token results of a distributed computation into one HDF5 file, in the file's order,
/// padding gone, whatever the mesh.
///
/// All ranks call alike, once per micro-batch; world rank 0 owns the file and writes.
class TokenOutputs {
 public:
  /// `file` is null on every rank but world rank 0.
  TokenOutputs(h5::File* file, const Mesh& mesh) : file_(file), mesh_(mesh) {}

  /// Makes a dataset of `rows` rows.
  void create(const std::string& dataset, const std::vector<int64_t>& row_shape, int64_t rows);
  /// `stream` [T, ...] float: a whole stream, the same on all ranks of a data-parallel replica.
  void write(const std::string& dataset, const at::Tensor& stream, const TokenPlaces& places);

 private:
  h5::File* file_;
  const Mesh& mesh_;
};

/// Shares [T/(cp·tp), ...] of all tp and cp ranks to the whole stream [T, ...], on each of them.
/// Collective over the model-parallel group.
at::Tensor whole_stream(const at::Tensor& share, const Mesh& mesh);

/// Rows of all dp ranks, concatenated in dp order; each rank may give another number of rows.
/// Collective over dp.
at::Tensor gather_rows_over_dp(const at::Tensor& rows, const Communicator& dp);

}  // namespace archon
