#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "archon/io/hdf5.hpp"

namespace archon {

/// One sequence of a dataset with its token-aligned and per-sequence fields.
struct Sequence {
  int64_t index = 0;                           ///< in the file
  at::Tensor tokens;                           ///< int64 [L]
  at::Tensor loss_mask;                        ///< bool [L]; never true at 0
  std::map<std::string, at::Tensor> fields;    ///< token-aligned float32 [L], as asked for
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
  /// ("old_values", "returns", ...). InputError that names file, dataset, place and value.
  TokenDataset(const std::string& path, int64_t vocab_size, std::vector<std::string> fields = {});

  int64_t size() const { return static_cast<int64_t>(cu_seqlens_.size()) - 1; }
  int64_t tokens() const { return cu_seqlens_.back(); }
  int64_t length(int64_t sequence) const {
    return cu_seqlens_[sequence + 1] - cu_seqlens_[sequence];
  }
  const std::vector<int64_t>& cu_seqlens() const { return cu_seqlens_; }
  const std::string& path() const { return file_.path(); }

  Sequence read(int64_t sequence) const;

 private:
  h5::File file_;
  int64_t vocab_size_;
  std::vector<std::string> fields_;
  std::vector<int64_t> cu_seqlens_;
  bool has_loss_mask_ = false;
};

}  // namespace archon
