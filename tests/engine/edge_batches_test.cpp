// Batches at the edges of what is allowed, on every mesh against one rank: loss, norm, every
// gradient, and the weights after a few steps, through the calls behind `archon train`.
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <sstream>

#include "archon/engine/run.hpp"
#include "archon/io/json.hpp"
#include "archon/io/safetensors.hpp"
#include "support/model_cases.hpp"
#include "support/mpi_main.hpp"
#include "support/record_compare.hpp"
#include "support/train_afresh.hpp"

using namespace archon;
using namespace archon::test;

namespace {

constexpr int64_t kSteps = 3;
constexpr double kLr = 1e-3;
// Tied; untied, with key/value heads that cp has to repeat.
const std::string kModels[] = {"q2_tiny_tied", "q3_kv2_h8"};

/// A global batch: lengths of its sequences, and which of them hold targets.
struct EdgeBatch {
  std::string name;
  std::vector<int64_t> lengths;
  std::vector<int64_t> without_targets = {};
  double clip = 1.0;
  int64_t sequences_per_step = 0;  // 0: all of them
};

std::vector<int64_t> many_short() {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < 24; ++i) lengths.push_back(2 + i * i % 5);
  return lengths;
}

const EdgeBatch kBatches[] = {
    // Longest first: dp rank 0 gets sequence 0 and with it all targets.
    {"rank_without_target", {40, 12, 11, 10, 9, 8, 7, 6}, {1, 2, 3, 4, 5, 6, 7}},
    {"rank_without_sequence", {29}},
    {"length_one_among_others", {1, 17, 1, 9, 1, 1, 23}},
    {"prime_total", {41, 31, 29}},
    {"many_short", many_short()},
    {"clipped", {33, 20, 14}, {}, 1e-2},
    {"not_clipped", {33, 20, 14}, {}, 1e6},
    // A dp rank that has no target at step 1 computes at step 2 with the weights it then has.
    {"rank_joins_later", {40, 12, 33, 30}, {1}, 1.0, 2},
};
const EdgeBatch kNoTarget = {"only_length_one", {1, 1, 1, 1, 1}};

std::string data_file(const EdgeBatch& batch) {
  return work_folder("edge_batches") + "/" + batch.name + "-batch.h5";
}

/// Writes the batch on rank 0. Tokens repeat rarely, so that a value taken from a neighbour shows.
void write_data(const EdgeBatch& batch) {
  if (test_environment().world_rank() == 0) {
    at::Tensor offsets = at::zeros({static_cast<int64_t>(batch.lengths.size()) + 1}, at::kLong);
    for (std::size_t i = 0; i < batch.lengths.size(); ++i)
      offsets[i + 1] = offsets[i] + batch.lengths[i];
    const int64_t tokens = offsets[-1].item<int64_t>();
    at::Tensor mask = at::zeros({tokens}, at::kByte);
    for (std::size_t i = 0; i < batch.lengths.size(); ++i) {
      const auto& none = batch.without_targets;
      const bool targets = std::find(none.begin(), none.end(), i) == none.end();
      mask.narrow(0, offsets[i].item<int64_t>() + 1, batch.lengths[i] - 1).fill_(targets ? 1 : 0);
    }
    h5::File file = h5::File::create(data_file(batch), "test_batch", 1);
    file.write("input_ids", at::arange(tokens, at::kLong).mul(73).add(11).remainder(199));
    file.write("cu_seqlens", offsets);
    file.write("loss_mask", mask);
    file.flush();
  }
  MPI_Barrier(MPI_COMM_WORLD);
}

struct Run {
  std::string model;
  EdgeBatch batch;
  MeshShape shape;
  int64_t micro_batch_tokens = 40;
  int64_t pad_limit = 64;
  at::ScalarType dtype = at::kFloat;
  std::string variant = "";
  bool save_hf = false;
  bool shuffle = false;
  int64_t steps = kSteps;
  double lr = kLr;

  std::string output() const {
    return fmt::format("{}/{}-{}-{}{}{}{}", work_folder("edge_batches"), model, batch.name,
                       shape.dp, shape.cp, shape.tp, variant);
  }
  std::string record() const { return output() + "-record.h5"; }
  TrainOptions options() const {
    TrainOptions options;
    options.run = {.model = golden_folder(model) + "/model",
                   .data = data_file(batch),
                   .mesh = shape,
                   .dtype = dtype,
                   .memory = {},
                   .micro_batch_tokens = micro_batch_tokens,
                   .pad_limit = pad_limit};
    options.output = output();
    options.steps = steps;
    options.batch_sequences = batch.sequences_per_step;
    options.shuffle = shuffle;
    options.clip_grad_norm = batch.clip;
    options.schedule.lr = lr;
    options.save_hf = save_hf;
    options.record.file = record();
    options.record.last_step = steps;
    options.record.activations = false;
    return options;
  }
  void train() const { train_afresh(options()); }
};

/// One rank takes a batch whole; its record is what every mesh is compared with.
Run one_rank(const std::string& model, const EdgeBatch& batch) {
  return {model, batch, {1, 1, 1}, 4096};
}

int world_size() { return test_environment().world_size(); }
bool speaks() { return test_environment().world_rank() == 0; }

std::string step_path(int64_t step, const std::string& what) {
  return fmt::format("/steps/{:06}/{}", step, what);
}

void check_record(const Run& want, const Run& got) {
  if (!speaks()) return;
  const h5::File a = h5::File::open(want.record()), b = h5::File::open(got.record());
  for (const char* what : {"loss", "grad_norm"})
    for (int64_t step = 1; step <= kSteps; ++step) {
      const std::string path = step_path(step, what);
      check_close(a, path, b, path, step == 1 ? kBetweenMeshes : kWeightsAfterSteps);
    }
  const std::string gradients = step_path(1, "gradients"), weights = step_path(kSteps, "weights");
  check_group(a, gradients, b, gradients, kBetweenMeshes);
  check_weights(a, weights, b, weights, gradients, kLr, kSteps);
}

void check_same_bits(const Run& want, const Run& got) {
  if (!speaks()) return;
  const h5::File a = h5::File::open(want.record()), b = h5::File::open(got.record());
  for (const h5::DatasetInfo& info : a.datasets("/steps"))
    BOOST_CHECK_MESSAGE(at::equal(a.read(info.path), b.read(info.path)),
                        got.record() << ": " << info.path << " differs");
}

double scalar(const Run& run, int64_t step, const std::string& what) {
  return h5::File::open(run.record()).read_scalar(step_path(step, what));
}

MeshShape any_mesh(const std::string& model) {
  return meshes_for(golden_folder(model) + "/model", world_size()).back();
}

}  // namespace

BOOST_TEST_GLOBAL_FIXTURE(LoadedPlugins);

BOOST_AUTO_TEST_SUITE(edge_batches)

BOOST_AUTO_TEST_CASE(every_mesh_equals_one_rank) {
  for (const EdgeBatch& batch : kBatches) {
    write_data(batch);
    for (const std::string& model : kModels)
      for (const MeshShape& shape : meshes_for(golden_folder(model) + "/model", world_size())) {
        if (world_size() == 1) {
          one_rank(model, batch).train();
          continue;
        }
        const Run run = {model, batch, shape};
        BOOST_TEST_CONTEXT(model << ", " << batch.name << " on " << to_string(shape)) {
          run.train();
          check_record(one_rank(model, batch), run);
        }
      }
  }
}

BOOST_AUTO_TEST_CASE(without_any_target_nothing_moves) {
  write_data(kNoTarget);
  for (const std::string& model : kModels)
    for (const MeshShape& shape : meshes_for(golden_folder(model) + "/model", world_size())) {
      const Run run = {model, kNoTarget, shape};
      run.train();
      if (!speaks()) continue;
      BOOST_TEST_CONTEXT(model << " on " << to_string(shape)) {
        BOOST_TEST(scalar(run, 1, "loss") == 0);
        BOOST_TEST(scalar(run, 1, "grad_norm") == 0);
        const h5::File record = h5::File::open(run.record());
        const WeightFolder folder(golden_folder(model) + "/model");
        const auto weights = record.datasets(step_path(kSteps, "weights"));
        BOOST_TEST(!weights.empty());
        for (const h5::DatasetInfo& info : weights) {
          const std::string name = info.path.substr(info.path.rfind('/') + 1);
          BOOST_CHECK_MESSAGE(at::equal(record.read(info.path), folder.view(name)), name);
        }
      }
    }
}

// The rank's own one-rank record shows that the batches clip, and do not.
BOOST_AUTO_TEST_CASE(clipping_is_in_action) {
  if (world_size() > 1) return;
  for (const std::string& model : kModels)
    for (const EdgeBatch& batch : kBatches) {
      if (batch.name == "clipped")
        BOOST_TEST(scalar(one_rank(model, batch), 1, "grad_norm") > 10 * batch.clip);
      if (batch.name == "not_clipped")
        BOOST_TEST(scalar(one_rank(model, batch), 1, "grad_norm") < batch.clip);
    }
}

BOOST_AUTO_TEST_CASE(micro_batches_order_and_padding_change_nothing) {
  const EdgeBatch& batch = kBatches[2];
  write_data(batch);
  for (const std::string& model : kModels) {
    const MeshShape shape = any_mesh(model);
    int variant = 0;
    for (const int64_t micro_batch_tokens : {1, 25, 4096})
      for (const int64_t pad_limit : {1, 64}) {
        Run run = {model, batch, shape, micro_batch_tokens, pad_limit};
        run.variant = fmt::format("-split{}", variant++);
        run.shuffle = pad_limit == 1;
        BOOST_TEST_CONTEXT(model << ", micro-batches of " << micro_batch_tokens << ", pad limit "
                                 << pad_limit) {
          run.train();
          check_record(one_rank(model, batch), run);
        }
      }
  }
}

BOOST_AUTO_TEST_CASE(the_same_mesh_gives_the_same_bits) {
  const EdgeBatch& batch = kBatches[4];
  write_data(batch);
  for (const std::string& model : kModels)
    for (const MeshShape& shape : meshes_for(golden_folder(model) + "/model", world_size())) {
      Run first = {model, batch, shape}, second = first;
      first.variant = "-first";
      second.variant = "-second";
      first.train();
      second.train();
      BOOST_TEST_CONTEXT(model << " on " << to_string(shape)) { check_same_bits(first, second); }
    }
}

BOOST_AUTO_TEST_CASE(bfloat16_stays_near_float32) {
  const EdgeBatch& batch = kBatches[6];
  write_data(batch);
  for (const std::string& model : kModels) {
    Run run = {model, batch, any_mesh(model)};
    run.dtype = at::kBFloat16;
    run.variant = "-bfloat16";
    run.train();
    if (!speaks()) continue;
    const Run want = one_rank(model, batch);
    for (int64_t step = 1; step <= kSteps; ++step) {
      BOOST_CHECK_CLOSE(scalar(run, step, "loss"), scalar(want, step, "loss"), 0.5);
      BOOST_CHECK_CLOSE(scalar(run, step, "grad_norm"), scalar(want, step, "grad_norm"), 3.0);
    }
  }
}

// A longer run on every mesh: bfloat16 follows the float32 losses of one rank.
BOOST_AUTO_TEST_CASE(bfloat16_follows_the_float32_loss_curve) {
  constexpr int64_t kLong = 20;
  // At kLr these models know the batch by heart after 20 steps, and a loss near 0 has no digits.
  constexpr double kGentleLr = 3e-4;
  const EdgeBatch& batch = kBatches[6];
  write_data(batch);
  for (const std::string& model : kModels)
    for (const MeshShape& shape : meshes_for(golden_folder(model) + "/model", world_size())) {
      Run curve = one_rank(model, batch);
      curve.variant = "-curve";
      curve.steps = kLong;
      curve.lr = kGentleLr;
      if (world_size() == 1) curve.train();
      Run run = {model, batch, shape};
      run.dtype = at::kBFloat16;
      run.variant = "-curve-bfloat16";
      run.steps = kLong;
      run.lr = kGentleLr;
      run.train();
      if (!speaks()) continue;
      BOOST_TEST_CONTEXT(model << " on " << to_string(shape)) {
        for (int64_t step = 1; step <= kLong; ++step)
          BOOST_CHECK_CLOSE(scalar(run, step, "loss"), scalar(curve, step, "loss"), 2.0);
        // It did learn: the curve is one, not a line.
        BOOST_TEST(scalar(curve, kLong, "loss") < 0.95 * scalar(curve, 1, "loss"));
      }
    }
}

// The exported folder holds the embedding alone, and it is the trained one: evaluating it gives
// the loss that the next training step shows.
BOOST_AUTO_TEST_CASE(tied_weights_stay_one_tensor) {
  const std::string model = "q2_tiny_tied";
  const EdgeBatch& batch = kBatches[3];
  write_data(batch);
  Run run = {model, batch, any_mesh(model)}, longer = run;
  run.variant = "-tied";
  run.save_hf = true;
  run.train();
  longer.variant = "-tied-longer";
  longer.steps = kSteps + 1;
  longer.train();
  RunOptions eval = run.options().run;
  eval.model = run.output() + "/hf";
  std::ostringstream json;
  run_eval(eval, test_environment(), json);
  if (!speaks()) return;
  const WeightFolder folder(eval.model);
  const auto names = folder.names();
  BOOST_TEST(std::count(names.begin(), names.end(), "model.embed_tokens.weight") == 1);
  BOOST_TEST(std::count(names.begin(), names.end(), "lm_head.weight") == 0);
  const h5::File record = h5::File::open(run.record());
  for (const std::string& name : names)
    BOOST_TEST(at::equal(folder.view(name), record.read(step_path(kSteps, "weights/" + name))));
  const double loss = Json::parse(json.str()).at("loss");
  BOOST_CHECK_CLOSE(loss, scalar(longer, kSteps + 1, "loss"), 1e-3);
}

BOOST_AUTO_TEST_SUITE_END()
