#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "archon/io/hdf5.hpp"

namespace archon {

/// One sequence of a dataset, with the token-aligned fields that were asked for.
struct Sequence {
  int64_t index = 0;                         ///< in the file
  at::Tensor tokens;                         ///< int64 [L]
  at::Tensor loss_mask;                      ///< bool [L]; never true at 0
  std::map<std::string, at::Tensor> fields;  ///< token-aligned float32 [L]
  int64_t length() const { return tokens.size(0); }
  int64_t targets() const;
};

/// A packed token dataset (docs/file-formats.md), read in pieces: offsets are held in memory,
/// tokens are not.
class TokenDataset {
 public:
  /// Checks what can be checked without the tokens: cu_seqlens starts at 0, rises strictly, ends
  /// at T; every known dataset has T (or N) entries. `vocab_size` bounds token ids; they are
  /// checked as they are read. `fields` are token-aligned float32 datasets that must be there
  /// ("old_values", "returns", ...), in the file `beside` (same sequences) or in this one.
  /// InputError that names file, dataset, place and value.
  TokenDataset(const std::string& path, int64_t vocab_size, std::vector<std::string> fields = {},
               const std::string& beside = "");

  int64_t size() const { return static_cast<int64_t>(cu_seqlens_.size()) - 1; }
  int64_t tokens() const { return cu_seqlens_.back(); }
  int64_t length(int64_t sequence) const {
    return cu_seqlens_[sequence + 1] - cu_seqlens_[sequence];
  }
  const std::vector<int64_t>& cu_seqlens() const { return cu_seqlens_; }
  /// float64 [N], finite; undefined where the file has none. Read and checked at the first call, so
  /// that what needs no rewards takes a file with others.
  const at::Tensor& rewards() const;
  const std::string& path() const { return file_.path(); }
  /// For what only some readers look at: group ids, attributes.
  const h5::File& file() const { return file_; }

  /// Reads one sequence and checks its token ids and loss mask. Tokens around it are read ahead
  /// and kept (at most 1 Mi) as long as calls stay near each other in the file, so a walk through
  /// it reads each chunk about once. One thread at a time.
  Sequence read(int64_t sequence) const;
  /// Reads and so checks every sequence, in the order of the file. Returns their targets.
  int64_t check_all() const;

 private:
  /// Tokens [begin, end) of the file in memory; loss_mask int64 as in the file.
  struct Window {
    int64_t begin = 0, end = 0;
    at::Tensor tokens, loss_mask;
    std::map<std::string, at::Tensor> fields;
  };

  /// The file that holds a field.
  const h5::File& holder(const std::string& field) const;
  void load_window(int64_t begin, int64_t end) const;
  void check_tokens(const Sequence& sequence) const;
  void check_loss_mask(int64_t sequence, const at::Tensor& mask) const;

  h5::File file_;
  std::optional<h5::File> beside_;
  int64_t vocab_size_;
  std::vector<std::string> fields_;
  std::vector<int64_t> cu_seqlens_;
  bool has_loss_mask_ = false;
  mutable at::Tensor rewards_;
  mutable Window window_;
  mutable int64_t read_ahead_ = 0;
};

}  // namespace archon
