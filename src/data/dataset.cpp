#include "archon/data/dataset.hpp"

#include <ATen/ops/ones.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <utility>

#include "archon/base/error.hpp"

namespace archon {
namespace {

constexpr int64_t kLargestReadAhead = int64_t{1} << 20;   // tokens
constexpr int64_t kSmallestReadAhead = int64_t{1} << 16;  // about a chunk

constexpr std::array kPerSequence = {"rewards", "group_ids"};
constexpr std::array kPerToken = {"logprobs",   "prox_logprobs", "ref_logprobs",
                                  "advantages", "old_values",    "returns"};

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

h5::DatasetInfo require(const h5::File& file, const std::string& dataset, const char* reason) {
  ARCHON_VALIDATE(file.has(dataset), "{} has no dataset {}; {}", file.path(), dataset, reason);
  return file.info(dataset);
}

void check_integers(const h5::File& file, const h5::DatasetInfo& info) {
  ARCHON_VALIDATE(info.shape.size() == 1, "{}: {} has shape {}; it must be 1-D", file.path(),
                  info.path, shape_text(info.shape));
  ARCHON_VALIDATE(at::isIntegralType(info.dtype, /*includeBool=*/true),
                  "{}: {} holds {}; it must hold integers", file.path(), info.path,
                  at::toString(info.dtype));
}

void check_entries(const h5::File& file, const std::string& dataset, int64_t entries,
                   const char* per) {
  const h5::DatasetInfo info = file.info(dataset);
  ARCHON_VALIDATE(info.shape.size() == 1 && info.rows() == entries,
                  "{}: {} has shape {}; it must be [{}], one entry per {}", file.path(), dataset,
                  shape_text(info.shape), entries, per);
}

void check_offsets(const h5::File& file, const std::vector<int64_t>& offsets, int64_t tokens) {
  ARCHON_VALIDATE(offsets.size() >= 2,
                  "{}: /cu_seqlens has {} entries; it needs one more than there are sequences, and "
                  "a dataset needs at least one sequence",
                  file.path(), offsets.size());
  ARCHON_VALIDATE(offsets.front() == 0, "{}: /cu_seqlens starts at {}; it must start at 0",
                  file.path(), offsets.front());
  const auto fall = std::adjacent_find(offsets.begin(), offsets.end(), std::greater_equal<>());
  const auto sequence = fall - offsets.begin();
  ARCHON_VALIDATE(
      fall == offsets.end(),
      "{}: /cu_seqlens[{}] = {} after /cu_seqlens[{}] = {}; offsets must rise, so leave "
      "empty sequences out",
      file.path(), sequence + 1, offsets[sequence + 1], sequence, offsets[sequence]);
  ARCHON_VALIDATE(offsets.back() == tokens,
                  "{}: /cu_seqlens ends at {}, but /input_ids has {} tokens; the last offset must "
                  "be the number of tokens",
                  file.path(), offsets.back(), tokens);
}

std::vector<int64_t> read_integers(const h5::File& file, const std::string& dataset) {
  const at::Tensor values = file.read(dataset, at::kLong);
  const int64_t* begin = values.const_data_ptr<int64_t>();
  return {begin, begin + values.numel()};
}

/// A loss reads its fields at targets, where a value that is not finite would spoil every weight.
void check_field(const std::string& path, int64_t begin, const Sequence& sequence,
                 const std::string& name) {
  const bool log_probs = name.ends_with("logprobs");
  const float* values = sequence.fields.at(name).const_data_ptr<float>();
  const bool* target = sequence.loss_mask.const_data_ptr<bool>();
  for (int64_t t = 0; t < sequence.length(); ++t)
    ARCHON_VALIDATE(!target[t] || (std::isfinite(values[t]) && !(log_probs && values[t] > 0)),
                    "{}: /{}[{}] = {} (sequence {}, token {}, a target); it must be {}; mend what "
                    "wrote the file, or leave the token out of /loss_mask",
                    path, name, begin + t, values[t], sequence.index, t,
                    log_probs ? "a log-probability, finite and not above 0" : "finite");
}

}  // namespace

int64_t Sequence::targets() const { return loss_mask.sum().item<int64_t>(); }

TokenDataset::TokenDataset(const std::string& path, int64_t vocab_size,
                           std::vector<std::string> fields, const std::string& beside)
    : file_(h5::File::open(path)), vocab_size_(vocab_size), fields_(std::move(fields)) {
  if (!beside.empty()) beside_.emplace(h5::File::open(beside));
  constexpr const char* kNeeded =
      "a token dataset consists of /input_ids [T] and /cu_seqlens [N+1], see docs/file-formats.md";
  const h5::DatasetInfo ids = require(file_, "/input_ids", kNeeded);
  check_integers(file_, ids);
  const h5::DatasetInfo offsets = require(file_, "/cu_seqlens", kNeeded);
  check_integers(file_, offsets);
  ARCHON_VALIDATE(offsets.rows() <= ids.rows() + 1,
                  "{}: /cu_seqlens has {} entries, more than {} tokens can have sequences; {}", path,
                  offsets.rows(), ids.rows(), kNeeded);
  cu_seqlens_ = read_integers(file_, "/cu_seqlens");
  check_offsets(file_, cu_seqlens_, ids.rows());

  has_loss_mask_ = file_.has("/loss_mask");
  if (has_loss_mask_) {
    check_integers(file_, file_.info("/loss_mask"));
    check_entries(file_, "/loss_mask", tokens(), "token");
  }
  for (const std::string name : kPerSequence)
    if (file_.has("/" + name)) check_entries(file_, "/" + name, size(), "sequence");
  if (file_.has("/group_ids")) check_integers(file_, file_.info("/group_ids"));
  for (const std::string name : kPerToken)
    if (file_.has("/" + name)) check_entries(file_, "/" + name, tokens(), "token");
  for (const std::string& name : fields_) {
    const h5::File& file = holder(name);
    const h5::DatasetInfo info =
        require(file, "/" + name, "the loss asked for needs it, one value per token");
    check_entries(file, "/" + name, tokens(), "token");
    ARCHON_VALIDATE(at::isFloatingType(info.dtype), "{}: /{} holds {}; it must hold float32",
                    file.path(), name, at::toString(info.dtype));
  }
}

const at::Tensor& TokenDataset::rewards() const {
  if (rewards_.defined() || !file_.has("/rewards")) return rewards_;
  const at::Tensor rewards = file_.read("/rewards", at::kDouble);
  for (int64_t i = 0; i < size(); ++i) {
    const double reward = rewards.const_data_ptr<double>()[i];
    ARCHON_VALIDATE(
        std::isfinite(reward),
        "{}: /rewards[{}] = {}; a reward must be finite: mend what gave it, or leave the "
        "sequence out",
        path(), i, reward);
  }
  return rewards_ = rewards;
}

const h5::File& TokenDataset::holder(const std::string& field) const {
  return beside_ && beside_->has("/" + field) ? *beside_ : file_;
}

Sequence TokenDataset::read(int64_t sequence) const {
  ARCHON_ENSURE(sequence >= 0 && sequence < size(), "{} has no sequence {}; it has {}", path(),
                sequence, size());
  load_window(cu_seqlens_[sequence], cu_seqlens_[sequence + 1]);
  const int64_t begin = cu_seqlens_[sequence] - window_.begin;
  // Copies, so that a sequence kept for long does not keep a window alive.
  const auto own = [&](const at::Tensor& stream) {
    return stream.narrow(0, begin, length(sequence)).clone();
  };
  Sequence result;
  result.index = sequence;
  result.tokens = own(window_.tokens);
  check_tokens(result);
  if (has_loss_mask_) {
    const at::Tensor mask = own(window_.loss_mask);
    check_loss_mask(sequence, mask);
    result.loss_mask = mask.to(at::kBool);
  } else {
    result.loss_mask = at::ones({length(sequence)}, at::kBool);
    result.loss_mask.mutable_data_ptr<bool>()[0] = false;
  }
  for (const std::string& name : fields_) {
    result.fields[name] = own(window_.fields.at(name));
    check_field(holder(name).path(), cu_seqlens_[sequence], result, name);
  }
  return result;
}

int64_t TokenDataset::check_all() const {
  int64_t targets = 0;
  for (int64_t i = 0; i < size(); ++i) targets += read(i).targets();
  return targets;
}

void TokenDataset::check_tokens(const Sequence& sequence) const {
  const int64_t* ids = sequence.tokens.const_data_ptr<int64_t>();
  const int64_t* end = ids + sequence.length();
  const int64_t* wrong =
      std::find_if(ids, end, [&](int64_t id) { return id < 0 || id >= vocab_size_; });
  ARCHON_VALIDATE(wrong == end,
                  "{}: /input_ids[{}] = {} (sequence {}, token {}) is no token of the model, whose "
                  "ids lie in [0, {}); was the data made with another tokenizer?",
                  path(), cu_seqlens_[sequence.index] + (wrong - ids), *wrong, sequence.index,
                  wrong - ids, vocab_size_);
}

void TokenDataset::check_loss_mask(int64_t sequence, const at::Tensor& mask) const {
  const int64_t* values = mask.const_data_ptr<int64_t>();
  const int64_t* end = values + mask.numel();
  const int64_t* wrong = std::find_if(values, end, [](int64_t v) { return v != 0 && v != 1; });
  const int64_t begin = cu_seqlens_[sequence];
  ARCHON_VALIDATE(wrong == end,
                  "{}: /loss_mask[{}] = {} (sequence {}, token {}); it must be 0 or 1", path(),
                  begin + (wrong - values), *wrong, sequence, wrong - values);
  ARCHON_VALIDATE(values[0] == 0,
                  "{}: /loss_mask[{}] = 1 makes the first token (token 0) of sequence {} a target; "
                  "nothing comes before it that could predict it, so set it to 0",
                  path(), begin, sequence);
}

// A walk through the file, even a somewhat jumbled one, reads ever larger windows and so each
// chunk about once; a far jump reads nothing but its sequence.
void TokenDataset::load_window(int64_t begin, int64_t end) const {
  if (begin >= window_.begin && end <= window_.end) return;
  const bool walks =
      std::abs(begin - window_.begin) <= std::max(kSmallestReadAhead, window_.end - window_.begin);
  read_ahead_ = walks ? std::clamp(2 * read_ahead_, kSmallestReadAhead, kLargestReadAhead) : 0;
  window_ = Window{};                   // frees the old one before the new one is read
  if (tokens() <= kLargestReadAhead) {  // a small file is read once, in whatever order
    begin = 0;
    end = tokens();
  }
  const int64_t count = std::min(std::max(end - begin, read_ahead_), tokens() - begin);
  Window window;
  window.begin = begin;
  window.end = begin + count;
  window.tokens = file_.read_rows("/input_ids", begin, count, at::kLong);
  if (has_loss_mask_) window.loss_mask = file_.read_rows("/loss_mask", begin, count, at::kLong);
  for (const std::string& name : fields_)
    window.fields[name] = holder(name).read_rows("/" + name, begin, count, at::kFloat);
  window_ = std::move(window);
}

}  // namespace archon
