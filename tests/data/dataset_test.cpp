#include "archon/data/dataset.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <functional>
#include <limits>

#include "archon/base/error.hpp"

using archon::Sequence;
using archon::TokenDataset;
using Values = std::vector<int64_t>;

namespace {

constexpr int64_t kVocabulary = 100;

Values values(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.to(at::kLong).contiguous();
  return {flat.const_data_ptr<int64_t>(), flat.const_data_ptr<int64_t>() + flat.numel()};
}

at::Tensor integers(const Values& values, at::ScalarType type = at::kLong) {
  return at::tensor(values).to(type);
}

// A file of three sequences, of 3, 1 and 4 tokens; tests replace or leave out datasets of it.
struct TestFile {
  std::map<std::string, at::Tensor> datasets = {
      {"/input_ids", integers({1, 2, 3, 4, 5, 6, 7, 8}, at::kInt)},
      {"/cu_seqlens", integers({0, 3, 4, 8})}};

  TestFile() = default;
  TestFile(const TestFile&) = delete;
  ~TestFile() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }

  const std::string& write() const {
    archon::h5::File file = archon::h5::File::create(path, "token-dataset", 1);
    for (const auto& [name, tensor] : datasets) file.write(name, tensor);
    file.flush();
    return path;
  }

  const std::string path =
      (std::filesystem::temp_directory_path() / fmt::format("archon-dataset-{}.h5", ::getpid()))
          .string();
};

// The InputError of `action`, which must name all of `parts`.
void check_refused(const std::function<void()>& action, const std::vector<std::string>& parts) {
  try {
    action();
  } catch (const archon::InputError& error) {
    const std::string message = error.what();
    for (const std::string& part : parts)
      BOOST_TEST(message.find(part) != std::string::npos, message << " does not name " << part);
    return;
  }
  BOOST_ERROR("nothing was refused; expected a message about " << parts.back());
}

void check_refused(const TestFile& file, std::vector<std::string> parts,
                   const std::vector<std::string>& fields = {}) {
  parts.push_back(file.write());
  check_refused([&] { TokenDataset(file.path, kVocabulary, fields); }, parts);
}

// Opens, but reading `sequence` is refused.
void check_read_refused(const TestFile& file, int64_t sequence, std::vector<std::string> parts) {
  parts.push_back(file.write());
  const TokenDataset dataset(file.path, kVocabulary);
  check_refused([&] { dataset.read(sequence); }, parts);
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(dataset, TestFile)

BOOST_AUTO_TEST_CASE(sequences_are_read_with_their_default_targets) {
  const TokenDataset dataset(write(), kVocabulary);
  BOOST_TEST(dataset.size() == 3);
  BOOST_TEST(dataset.tokens() == 8);
  BOOST_TEST(dataset.length(2) == 4);
  const Sequence last = dataset.read(2);
  BOOST_TEST(last.index == 2);
  BOOST_TEST(values(last.tokens) == (Values{5, 6, 7, 8}));
  BOOST_TEST(values(last.loss_mask) == (Values{0, 1, 1, 1}));
  BOOST_TEST(last.targets() == 3);
  BOOST_TEST(dataset.read(1).targets() == 0);
  BOOST_TEST(values(dataset.read(0).tokens) == (Values{1, 2, 3}));
  BOOST_TEST((last.tokens.scalar_type() == at::kLong && last.loss_mask.scalar_type() == at::kBool));
}

BOOST_AUTO_TEST_CASE(values_that_no_loss_can_use_are_refused) {
  datasets["/loss_mask"] = integers({0, 0, 1, 0, 0, 1, 1, 1}, at::kByte);
  const auto read_all = [&](const std::string& name, int64_t entry, float value) {
    datasets["/" + name] = at::zeros({8}, at::kFloat);
    datasets["/" + name].mutable_data_ptr<float>()[entry] = value;
    const TokenDataset dataset(write(), kVocabulary, {name});
    for (int64_t i = 0; i < dataset.size(); ++i) dataset.read(i);
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  check_refused([&] { read_all("logprobs", 2, 0.5F); },
                {"/logprobs[2] = 0.5", "sequence 0, token 2", "not above 0"});
  check_refused([&] { read_all("prox_logprobs", 5, nan); }, {"/prox_logprobs[5] = nan"});
  check_refused([&] { read_all("advantages", 7, nan); }, {"/advantages[7] = nan", "token 3"});
  read_all("advantages", 5, 2.0F);  // large, but a number
  read_all("logprobs", 1, nan);     // no target
}

// Not before: what needs no rewards reads the file, and `archon reward` mends it.
BOOST_AUTO_TEST_CASE(rewards_are_checked_where_they_are_used) {
  datasets["/rewards"] = at::tensor({0.5F, std::numeric_limits<float>::infinity(), 1.0F});
  write();
  BOOST_TEST(TokenDataset(path, kVocabulary).read(1).length() == 1);
  check_refused([&] { TokenDataset(path, kVocabulary).rewards(); },
                {path, "/rewards[1] = inf", "must be finite"});
  datasets["/rewards"] = at::tensor({0.5F, -2.0F, 1.0F});
  BOOST_TEST(at::equal(TokenDataset(write(), kVocabulary).rewards(),
                       at::tensor({0.5, -2.0, 1.0}, at::kDouble)));
  datasets.erase("/rewards");
  BOOST_TEST(!TokenDataset(write(), kVocabulary).rewards().defined());
}

BOOST_AUTO_TEST_CASE(mask_and_fields_are_read) {
  datasets["/input_ids"] = integers({1, 2, 3, 4, 5, 6, 7, 8}, at::kLong);
  datasets["/loss_mask"] = integers({0, 0, 1, 0, 0, 1, 0, 1}, at::kByte);
  datasets["/returns"] = at::arange(8, at::kFloat);
  datasets["/rewards"] = at::zeros({3});
  datasets["/a_thing_of_the_user's"] = at::zeros({17, 2});
  const TokenDataset dataset(write(), kVocabulary, {"returns"});
  const Sequence last = dataset.read(2);
  BOOST_TEST(values(last.loss_mask) == (Values{0, 1, 0, 1}));
  BOOST_TEST(last.fields.size() == 1U);
  BOOST_TEST(at::equal(last.fields.at("returns"), at::arange(4, 8, at::kFloat)));
  BOOST_TEST(dataset.read(0).targets() == 1);
}

BOOST_AUTO_TEST_CASE(missing_parts_are_named) {
  datasets.erase("/cu_seqlens");
  check_refused(*this, {"/cu_seqlens"});
  datasets = {{"/cu_seqlens", integers({0, 3})}};
  check_refused(*this, {"/input_ids"});
}

BOOST_AUTO_TEST_CASE(a_group_in_place_of_a_dataset_is_named) {
  datasets.erase("/input_ids");
  datasets["/input_ids/part_1"] = integers({1, 2});
  check_refused(*this, {"/input_ids"});
}

BOOST_AUTO_TEST_CASE(a_missing_field_is_named) {
  check_refused(*this, {"/old_values"}, {"old_values"});
}

BOOST_AUTO_TEST_CASE(a_missing_file_is_named) {
  check_refused([&] { TokenDataset("/nowhere/data.h5", kVocabulary); }, {"/nowhere/data.h5"});
}

BOOST_AUTO_TEST_CASE(wrong_offsets_are_refused) {
  const std::vector<std::pair<Values, std::string>> wrong = {
      {{1, 3, 8}, "starts at 1"},
      {{0, 3, 3, 8}, "/cu_seqlens[2] = 3 after /cu_seqlens[1] = 3"},
      {{0, 5, 3, 8}, "/cu_seqlens[2] = 3 after /cu_seqlens[1] = 5"},
      {{0, 3, 7}, "ends at 7, but /input_ids has 8"},
      {{0, 3, 9}, "ends at 9"},
      {{0}, "1 entries"}};
  for (const auto& [offsets, message] : wrong) {
    datasets["/cu_seqlens"] = integers(offsets);
    check_refused(*this, {message});
  }
}

BOOST_AUTO_TEST_CASE(a_dataset_without_sequences_is_refused) {
  datasets["/input_ids"] = at::zeros({0}, at::kInt);
  datasets["/cu_seqlens"] = integers({0});
  check_refused(*this, {"/cu_seqlens", "at least one sequence"});
}

BOOST_AUTO_TEST_CASE(wrong_shapes_and_types_are_refused) {
  const at::Tensor ids = datasets.at("/input_ids");
  const std::vector<std::tuple<std::string, at::Tensor, std::string>> wrong = {
      {"/input_ids", ids.reshape({2, 4}), "shape [2, 4]"},
      {"/input_ids", ids.to(at::kFloat), "Float"},
      {"/input_ids", at::tensor(int64_t{3}).reshape({}), "shape []"},
      {"/cu_seqlens", integers({0, 3, 4, 8}).reshape({2, 2}), "shape [2, 2]"},
      {"/cu_seqlens", integers({0, 3, 4, 8}).to(at::kDouble), "Double"},
      {"/loss_mask", at::zeros({7}, at::kByte), "[8]"},
      {"/loss_mask", at::zeros({8}, at::kFloat), "Float"},
      {"/loss_mask", at::zeros({8, 1}, at::kByte), "shape [8, 1]"},
      {"/rewards", at::zeros({8}), "[3], one entry per sequence"},
      {"/group_ids", at::zeros({2}, at::kLong), "[3], one entry per sequence"},
      {"/logprobs", at::zeros({9}), "[8], one entry per token"},
      {"/prox_logprobs", at::zeros({7}), "[8], one entry per token"},
      {"/ref_logprobs", at::zeros({3}), "[8], one entry per token"},
      {"/advantages", at::zeros({8, 2}), "[8], one entry per token"},
      {"/old_values", at::zeros({}), "[8], one entry per token"},
      {"/returns", at::zeros({0}), "[8], one entry per token"}};
  const auto good = datasets;
  for (const auto& [name, tensor, message] : wrong) {
    datasets = good;
    datasets[name] = tensor;
    check_refused(*this, {name, message});
  }
}

BOOST_AUTO_TEST_CASE(a_field_of_integers_is_refused) {
  datasets["/returns"] = at::zeros({8}, at::kLong);
  check_refused(*this, {"/returns", "float32"}, {"returns"});
}

BOOST_AUTO_TEST_CASE(tokens_outside_the_vocabulary_are_refused_where_they_are) {
  for (const int64_t wrong : {int64_t{-1}, kVocabulary}) {
    datasets["/input_ids"] = integers({1, 2, 3, 4, 5, 6, wrong, 8}, at::kInt);
    check_read_refused(
        *this, 2, {fmt::format("/input_ids[6] = {} (sequence 2, token 2)", wrong), "[0, 100)"});
    BOOST_TEST(TokenDataset(path, kVocabulary).read(0).length() == 3);
  }
}

BOOST_AUTO_TEST_CASE(wrong_masks_are_refused_where_they_are) {
  datasets["/loss_mask"] = integers({0, 1, 1, 0, 0, 1, 2, 1}, at::kByte);
  check_read_refused(*this, 2, {"/loss_mask[6] = 2 (sequence 2, token 2)"});
  datasets["/loss_mask"] = integers({0, 1, -1, 0, 0, 1, 0, 1}, at::kChar);
  check_read_refused(*this, 0, {"/loss_mask[2] = -1"});
  datasets["/loss_mask"] = integers({0, 1, 1, 1, 0, 1, 1, 1}, at::kByte);
  check_read_refused(*this, 1, {"/loss_mask[3] = 1", "sequence 1", "token 0"});
}

BOOST_AUTO_TEST_CASE(sequences_that_do_not_exist_are_not_read) {
  const TokenDataset dataset(write(), kVocabulary);
  BOOST_CHECK_THROW(dataset.read(3), archon::RuntimeFailure);
  BOOST_CHECK_THROW(dataset.read(-1), archon::RuntimeFailure);
}

// Longer than what is read ahead at once, so that windows are left, met and crossed.
BOOST_AUTO_TEST_CASE(large_files_are_read_alike_in_any_order) {
  constexpr int64_t kLength = 30011, kSequences = 90;
  const at::Tensor ids = at::randint(kVocabulary, {kLength * kSequences}, at::kInt);
  const at::Tensor returns = at::arange(kLength * kSequences, at::kFloat);
  const at::Tensor offsets = at::arange(0, kLength * (kSequences + 1), kLength, at::kLong);
  {
    auto file = archon::h5::File::create(path, "token-dataset", 1);
    file.create_rows("/input_ids", {}, at::kInt);
    file.append_rows("/input_ids", ids);
    file.write("/returns", returns);
    file.write("/cu_seqlens", offsets);
  }
  const TokenDataset dataset(path, kVocabulary, {"returns"});
  const auto check = [&](int64_t sequence) {
    const Sequence found = dataset.read(sequence);
    const int64_t begin = sequence * kLength;
    BOOST_TEST(at::equal(found.tokens, ids.narrow(0, begin, kLength).to(at::kLong)));
    BOOST_TEST(at::equal(found.fields.at("returns"), returns.narrow(0, begin, kLength)));
  };
  for (int64_t i = 0; i < kSequences; ++i) check(i);
  for (int64_t i = kSequences; i-- > 0;) check(i);
  for (int64_t i = 0; i < kSequences; ++i) check(i * 37 % kSequences);
  for (int64_t i = 0; i < kSequences; ++i) check(i ^ 1);
}

BOOST_AUTO_TEST_SUITE_END()
