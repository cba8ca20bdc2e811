// archon generate on every mesh: greedily against HuggingFace, samples against one rank, and both
// against the forward pass without a cache.
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <boost/test/unit_test.hpp>
#include <sstream>

#include "archon/engine/generator.hpp"
#include "archon/engine/loaded_model.hpp"
#include "archon/engine/run.hpp"
#include "archon/io/hdf5.hpp"
#include "archon/io/json.hpp"
#include "support/model_cases.hpp"
#include "support/mpi_main.hpp"

using namespace archon;
using namespace archon::test;

namespace {

const std::string kCases[] = {"q2_tiny_tied", "q3_tiny", "q3_kv2_h8"};

bool speaks() { return test_environment().world_rank() == 0; }

std::string file_name(const std::string& name, const MeshShape& shape, const std::string& variant) {
  return fmt::format("{}/{}-{}-{}-{}-{}.h5", work_folder("generate"), name, shape.dp, shape.cp,
                     shape.tp, variant);
}

GenerateOptions options_for(const std::string& name, const MeshShape& shape,
                            const std::string& variant) {
  GenerateOptions options;
  options.run.model = golden_folder(name) + "/model";
  options.run.data = golden_folder(name) + "/batch.h5";
  options.run.mesh = shape;
  options.output = file_name(name, shape, variant);
  options.stop_tokens = std::vector<int64_t>();
  options.max_new_tokens = 40;
  return options;
}

GenerateOptions sampling_options(const std::string& name, const MeshShape& shape) {
  GenerateOptions options = options_for(name, shape, "sampled");
  options.group_size = 3;
  options.max_new_tokens = 24;
  options.temperature = 0.7;
  options.top_k = 40;
  options.top_p = 0.95;
  options.stop_tokens = std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8};
  options.run.seed = 11;
  return options;
}

/// What came of it; on rank 0.
Json generate(const GenerateOptions& options) {
  std::ostringstream json;
  run_generate(options, test_environment(), json);
  return speaks() ? Json::parse(json.str()) : Json();
}

template <class T>
std::vector<T> read(const h5::File& file, const std::string& dataset, at::ScalarType dtype) {
  const at::Tensor values = file.read(dataset, dtype);
  const T* begin = values.const_data_ptr<T>();
  return {begin, begin + values.numel()};
}

/// A file of rollouts, or one like it.
struct RolloutFile {
  explicit RolloutFile(const std::string& path) {
    const h5::File file = h5::File::open(path);
    tokens = read<int64_t>(file, "/input_ids", at::kLong);
    offsets = read<int64_t>(file, "/cu_seqlens", at::kLong);
    mask = read<int64_t>(file, "/loss_mask", at::kLong);
    log_probs = read<float>(file, "/logprobs", at::kFloat);
  }
  std::size_t size() const { return offsets.size() - 1; }
  std::vector<int64_t> tokens, offsets, mask;
  std::vector<float> log_probs;
};

/// The golden may have fewer tokens behind a prompt.
void check_beginnings(const RolloutFile& want, const RolloutFile& got) {
  BOOST_REQUIRE_EQUAL(want.size(), got.size());
  for (std::size_t i = 0; i < want.size(); ++i) BOOST_TEST_CONTEXT("rollout " << i)
  for (int64_t t = 0; t < want.offsets[i + 1] - want.offsets[i]; ++t) {
    const int64_t a = want.offsets[i] + t, b = got.offsets[i] + t;
    BOOST_REQUIRE_EQUAL(want.tokens[a], got.tokens[b]);
    BOOST_CHECK_EQUAL(want.mask[a], got.mask[b]);
    BOOST_CHECK_SMALL(double{want.log_probs[a]} - got.log_probs[b], 1e-4);
  }
}

/// The forward pass over whole rollouts, without a cache: the same log-probabilities, and, where
/// `greedy`, largest logits just before each completed token.
void check_forward(const GenerateOptions& options, bool greedy) {
  ForwardOptions forward;
  forward.run.model = options.run.model;
  forward.run.data = options.output;
  forward.run.mesh = options.run.mesh;
  forward.output = options.output + ".forward";
  forward.logits = true;
  forward.temperature = greedy ? 1.0 : options.temperature;
  run_forward(forward, test_environment());
  if (!speaks()) return;
  const RolloutFile rollouts(options.output);
  const h5::File file = h5::File::open(forward.output);
  const auto log_probs = read<float>(file, "/logprobs", at::kFloat);
  const at::Tensor best = file.read("/logits").argmax(1);
  int64_t completed = 0;
  for (std::size_t t = 0; t < rollouts.tokens.size(); ++t) {
    if (rollouts.mask[t] == 0) {
      BOOST_CHECK_EQUAL(rollouts.log_probs[t], 0.0F);
      continue;
    }
    ++completed;
    BOOST_CHECK_SMALL(double{rollouts.log_probs[t]} - log_probs[t], 1e-4);
    if (greedy)
      BOOST_CHECK_EQUAL(best[static_cast<int64_t>(t) - 1].item<int64_t>(), rollouts.tokens[t]);
  }
  BOOST_CHECK_GT(completed, 0);
}

std::vector<MeshShape> meshes(const std::string& name) {
  return meshes_for(golden_folder(name) + "/model", test_environment().world_size());
}

}  // namespace

BOOST_TEST_GLOBAL_FIXTURE(LoadedPlugins);

BOOST_AUTO_TEST_CASE(greedy_equals_huggingface_and_recomputation) {
  for (const std::string& name : kCases)
    for (const MeshShape& shape : meshes(name))
      BOOST_TEST_CONTEXT(name << " on " << to_string(shape)) {
        GenerateOptions options = options_for(name, shape, "greedy");
        options.temperature = 0;
        generate(options);
        check_forward(options, true);
        if (speaks())
          check_beginnings(RolloutFile(golden_folder(name) + "/generation.h5"),
                           RolloutFile(options.output));
      }
}

BOOST_AUTO_TEST_CASE(samples_are_those_of_one_rank) {
  for (const std::string& name : kCases)
    for (const MeshShape& shape : meshes(name))
      BOOST_TEST_CONTEXT(name << " on " << to_string(shape)) {
        GenerateOptions options = sampling_options(name, shape);
        if (shape.size() > 1) {  // other batches, too
          options.batch_sequences = 4;
          options.run.micro_batch_tokens = 20;
        }
        generate(options);
        check_forward(options, false);
        if (!speaks()) continue;
        const RolloutFile one(file_name(name, {1, 1, 1}, "sampled")), got(options.output);
        BOOST_REQUIRE_EQUAL(one.size(), got.size());
        check_beginnings(one, got);
        BOOST_TEST(one.offsets == got.offsets, boost::test_tools::per_element());
      }
}

BOOST_AUTO_TEST_CASE(rollouts_end_at_stop_tokens_or_at_the_length_asked_for) {
  const MeshShape shape = meshes("q3_tiny").front();
  const GenerateOptions options = sampling_options("q3_tiny", shape);
  const Json summary = generate(options);
  if (!speaks()) return;
  const RolloutFile rollouts(options.output);
  const h5::File file = h5::File::open(options.output);
  const auto groups = read<int64_t>(file, "/group_ids", at::kLong);
  const auto prompts = read<int64_t>(file, "/prompt_lengths", at::kLong);
  BOOST_REQUIRE_EQUAL(rollouts.size(), 18u);
  int stopped = 0, cut = 0;
  for (std::size_t i = 0; i < rollouts.size(); ++i) {
    BOOST_CHECK_EQUAL(groups[i], static_cast<int64_t>(i) / 3);
    const int64_t begin = rollouts.offsets[i] + prompts[i], end = rollouts.offsets[i + 1];
    BOOST_CHECK_EQUAL(rollouts.mask[begin - 1], 0);
    for (int64_t t = begin; t < end; ++t) {
      BOOST_CHECK_EQUAL(rollouts.mask[t], 1);
      const bool stops = rollouts.tokens[t] >= 1 && rollouts.tokens[t] <= 8;
      BOOST_CHECK(!stops || t + 1 == end);
      stopped += static_cast<int>(stops);
    }
    BOOST_CHECK_LE(end - begin, 24);
    cut += static_cast<int>(end - begin == 24);
  }
  BOOST_CHECK_GT(stopped, 0);
  BOOST_CHECK_GT(cut, 0);
  BOOST_CHECK_EQUAL(summary.at("rollouts").get<int>(), 18);
}

// Samples of one prompt differ, seeds differ, and a larger group begins with the smaller one.
BOOST_AUTO_TEST_CASE(random_numbers_belong_to_seed_prompt_and_sample) {
  GenerateOptions options = sampling_options("q3_tiny", meshes("q3_tiny").front());
  options.stop_tokens = std::vector<int64_t>();
  options.output += ".three";
  generate(options);
  GenerateOptions more = options, other = options;
  more.group_size = 4;
  more.output += ".more";
  generate(more);
  other.run.seed = 12;
  other.output += ".other";
  generate(other);
  if (!speaks()) return;
  const RolloutFile a(options.output), b(more.output), c(other.output);
  const auto completion = [](const RolloutFile& r, std::size_t i) {
    return std::vector<int64_t>(r.tokens.begin() + r.offsets[i + 1] - 24,
                                r.tokens.begin() + r.offsets[i + 1]);
  };
  for (std::size_t i = 0; i < a.size(); ++i) {
    BOOST_CHECK(completion(a, i) == completion(b, i / 3 * 4 + i % 3));
    BOOST_CHECK(completion(a, i) != completion(c, i));
    if (i % 3 > 0) BOOST_CHECK(completion(a, i) != completion(a, i - 1));
  }
}

// So that ranks which wait for one with many prompts hear from it between any two passes.
BOOST_AUTO_TEST_CASE(a_step_is_one_pass_of_the_model) {
  const Mesh mesh({test_environment().world_size(), 1, 1}, test_environment().world());
  GenerateOptions options = options_for("q3_tiny", mesh.shape(), "steps");
  options.max_new_tokens = 1;
  options.group_size = 2;
  options.run.micro_batch_tokens = 8;
  MemoryOptions memory;
  memory.shard = ShardMode::none;
  const LoadedModel loaded = load_model(options.run.model, mesh, options.run.dtype, memory);
  Generator generator(*loaded.model, mesh, options, {});
  // All tokens but a prompt's last: passes of 4 + 4, 3 + 0, 9 and 5 of them.
  const std::vector<int64_t> lengths = {5, 5, 4, 1, 10, 6};
  for (std::size_t i = 0; i < lengths.size(); ++i)
    generator.add_prompt(static_cast<int64_t>(i), std::vector<int64_t>(lengths[i], 7));
  for (int pass = 0; pass < 4; ++pass) BOOST_CHECK_EQUAL(generator.step().size(), 0u);
  BOOST_CHECK_EQUAL(generator.step().size(), 12u);
  BOOST_CHECK_EQUAL(generator.unfinished(), 0);
}

BOOST_AUTO_TEST_CASE(ranks_without_a_prompt_wait_in_peace) {
  const MeshShape shape = {test_environment().world_size(), 1, 1};
  GenerateOptions options = options_for("q3_tiny", shape, "one_prompt");
  options.run.data = options.output + ".prompts";
  if (speaks()) {
    h5::File file = h5::File::create(options.run.data, "tokens", 1);
    file.write("/input_ids", at::tensor(std::vector<int64_t>{7}));  // nothing to compute ahead
    file.write("/cu_seqlens", at::tensor(std::vector<int64_t>{0, 1}));
    file.flush();
  }
  ARCHON_MPI(MPI_Barrier(MPI_COMM_WORLD));
  options.cache_tokens = 1;  // one at a time all the same
  options.group_size = 2;
  options.temperature = 0;
  const Json summary = generate(options);
  check_forward(options, true);
  if (speaks()) BOOST_CHECK_EQUAL(summary.at("tokens").get<int>(), 80);
}
