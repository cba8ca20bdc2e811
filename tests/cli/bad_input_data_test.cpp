// Token datasets that are damaged, incomplete or do not fit the model.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "inputs.hpp"

using namespace archon;
using namespace archon::test;

namespace {

at::Tensor offsets(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

}  // namespace

BOOST_AUTO_TEST_CASE(files_that_are_no_hdf5) {
  const Inputs inputs;
  const std::string good = read_bytes(inputs.data);
  check_bad_input(2, inputs.train({"--data", inputs.folder / "none.h5"}),
                  {"none.h5", "No such file"});
  check_bad_input(1, inputs.eval({"--data", inputs.model}), {inputs.model, "folder"});
  for (const std::string& bytes :
       {std::string(), std::string("text"), good.substr(0, 64), good.substr(0, good.size() / 2)}) {
    write_bytes(inputs.data, bytes);
    check_bad_input(1, inputs.eval(), {inputs.data});
  }
  check_bad_input(4, inputs.train({"--cp", "2"}), {inputs.data});
}

BOOST_AUTO_TEST_CASE(datasets_that_are_missing_or_of_another_kind) {
  const Inputs inputs;
  const at::Tensor ids = at::ones({10}, at::kInt);
  inputs.write_data(ids, {});
  check_bad_input(2, inputs.train(), {inputs.data, "no dataset /cu_seqlens"});
  inputs.write_data({}, offsets({0, 10}));
  check_bad_input(1, inputs.eval(), {inputs.data, "no dataset /input_ids"});
  inputs.write_data(at::ones({10}), offsets({0, 10}));
  check_bad_input(1, inputs.eval(), {"/input_ids", "integers"});
  inputs.write_data(at::ones({2, 5}, at::kInt), offsets({0, 10}));
  check_bad_input(1, inputs.eval(), {"/input_ids", "[2, 5]", "1-D"});
  inputs.write_data(ids, offsets({0, 10}), {{"/loss_mask", at::zeros({9}, at::kByte)}});
  check_bad_input(1, inputs.eval(), {"/loss_mask", "[9]", "[10]"});
  inputs.write_data(ids, offsets({0, 10}), {{"/loss_mask", at::full({10}, 2, at::kByte)}});
  check_bad_input(1, inputs.eval(), {"/loss_mask[0] = 2"});
}

BOOST_AUTO_TEST_CASE(held_out_sets_are_refused_before_the_first_step) {
  const Inputs inputs;
  const std::string good = inputs.folder / "good.h5", held_out = inputs.data;
  std::filesystem::copy(inputs.data, good);
  const auto train = [&] { return inputs.train({"--data", good, "--eval-data", held_out}); };
  const at::Tensor ids = at::ones({10}, at::kInt);
  inputs.write_data(at::cat({ids, at::full({10}, 256, at::kInt)}), offsets({0, 10, 20}));
  for (const int ranks : {1, 2}) check_bad_input(ranks, train(), {held_out, "/input_ids[10] = 256"});
  inputs.write_data(ids, offsets({0, 10}), {{"/loss_mask", at::zeros({10}, at::kByte)}});
  check_bad_input(2, train(), {held_out, "no target token"});
  check_bad_input(2, inputs.eval(), {held_out, "no target token"});
  BOOST_CHECK_EQUAL(read_bytes(inputs.output + "/metrics.jsonl"), "");
}

BOOST_AUTO_TEST_CASE(cu_seqlens_that_do_not_fit) {
  const Inputs inputs;
  const std::vector<std::pair<std::vector<int64_t>, std::string>> cases = {
      {{0, 4, 11}, "ends at 11, but /input_ids has 10"},
      {{0, 4, 9}, "ends at 9, but /input_ids has 10"},
      {{1, 4, 10}, "starts at 1"},
      {{0, 7, 4, 10}, "/cu_seqlens[2] = 4 after /cu_seqlens[1] = 7"},
      {{0, 4, 4, 10}, "/cu_seqlens[2] = 4 after /cu_seqlens[1] = 4"},
      {{-3, 4, 10}, "starts at -3"},
      {{0}, "1 entries"}};
  for (const auto& [values, part] : cases) {
    inputs.write_data(at::ones({10}, at::kInt), offsets(values));
    check_bad_input(1, inputs.eval(), {inputs.data, "/cu_seqlens", part});
  }
  check_bad_input(4, inputs.train({"--tp", "2"}), {inputs.data, "/cu_seqlens", "1 entries"});
  inputs.write_data(at::ones({2}, at::kInt), offsets({0, 1, 2, 3, 4}));
  check_bad_input(1, inputs.eval(), {"/cu_seqlens has 5 entries, more than 2 tokens"});
}

BOOST_AUTO_TEST_CASE(targets_at_a_first_token) {
  const Inputs inputs;
  inputs.write_data(
      at::ones({10}, at::kInt), offsets({0, 4, 10}),
      {{"/loss_mask",
        at::tensor(std::vector<int64_t>{0, 1, 1, 1, 1, 1, 1, 1, 1, 1}).to(at::kByte)}});
  check_bad_input(1, inputs.train(), {inputs.data, "/loss_mask[4] = 1", "sequence 1"});
  check_bad_input(2, inputs.train({"--tp", "2"}), {inputs.data, "/loss_mask[4] = 1"});
}

BOOST_AUTO_TEST_CASE(tokens_outside_the_vocabulary) {
  const Inputs inputs;
  for (const int64_t id : {int64_t{256}, int64_t{-1}, int64_t{1} << 40}) {
    at::Tensor ids = at::ones({10}, at::kLong);
    ids.mutable_data_ptr<int64_t>()[6] = id;
    inputs.write_data(ids, offsets({0, 4, 10}));
    const std::string what = fmt::format("/input_ids[6] = {} (sequence 1, token 2)", id);
    check_bad_input(1, inputs.eval(), {inputs.data, what, "[0, 256)"});
    check_bad_input(2, inputs.train({"--cp", "2"}), {inputs.data, what, "[0, 256)"});
  }
}

BOOST_AUTO_TEST_CASE(sequences_that_are_too_long) {
  const Inputs inputs;
  inputs.write_data(at::ones({10}, at::kInt), offsets({0, 4, 10}));
  check_bad_input(2, inputs.train({"--max-sequence", "5"}),
                  {"sequence 1 has 6 tokens", "--max-sequence 5"});
  check_runs(2, inputs.train({"--max-sequence", "6"}));
}

BOOST_AUTO_TEST_CASE(held_out_data_is_checked_before_training) {
  const Inputs inputs;
  check_bad_input(2, inputs.train({"--eval-data", inputs.folder / "none.h5"}), {"none.h5"});
  check_bad_input(1, inputs.train({"--eval-every", "1"}), {"--eval-every 1", "--eval-data"});
  BOOST_CHECK(!std::filesystem::exists(inputs.output + "/metrics.jsonl"));
}

BOOST_AUTO_TEST_CASE(held_out_data_need_what_is_computed_for_others) {
  const Inputs inputs;
  inputs.write_data(at::ones({10}, at::kInt), offsets({0, 4, 10}));
  check_bad_input(2,
                  inputs.train({"--loss", "dpo", "--reference", inputs.model, "--batch-sequences",
                                "2", "--eval-data", inputs.data}),
                  {"--eval-data " + inputs.data + " has no /ref_logprobs", "--loss dpo",
                   "docs/reinforcement-learning.md"});
}

BOOST_AUTO_TEST_CASE(critics_need_their_fields) {
  const Inputs inputs("q2_critic");
  inputs.write_data(at::ones({10}, at::kInt), offsets({0, 10}));
  check_bad_input(2, inputs.train({"--loss", "critic"}), {inputs.data, "/returns", "/rewards"});
}

BOOST_AUTO_TEST_CASE(preferences_come_in_pairs) {
  const Inputs inputs("q2_tiny_tied");
  check_bad_input(2, inputs.train({"--loss", "dpo", "--batch-sequences", "2"}),
                  {inputs.data + " has 5 sequences", "--loss dpo takes pairs"});
}

BOOST_AUTO_TEST_CASE(what_nothing_can_be_generated_from) {
  const Inputs critic("q2_critic");
  check_bad_input(2, critic.generate(), {critic.model, "is a critic"});
  const Inputs inputs;
  check_bad_input(2, inputs.generate({"--stop-tokens", "3,256"}), {"stop token 256", "[0, 256)"});
  check_bad_input(2, inputs.generate({"--output", inputs.data}),
                  {inputs.data, "would be written into what is read"});
  check_bad_input(2, inputs.generate({"--output", inputs.folder / "none/out.h5"}),
                  {inputs.folder / "none"});
  check_bad_input(1, inputs.generate({"--tp", "3", "--dp", "1"}), {"3"});
  inputs.write_data(at::ones({0}, at::kInt), offsets({0}));
  check_bad_input(2, inputs.generate(), {inputs.data, "at least one sequence"});
  inputs.write_data(at::full({3}, 256, at::kInt), offsets({0, 3}));
  check_bad_input(2, inputs.generate(), {inputs.data, "= 256", "no token of the model"});
}
