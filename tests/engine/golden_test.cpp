// Every mesh against HuggingFace's results and against one rank, through the calls behind
// `archon forward` and `archon train`.
#include <boost/test/unit_test.hpp>

#include "archon/engine/run.hpp"
#include "archon/io/json.hpp"
#include "support/model_cases.hpp"
#include "support/mpi_main.hpp"
#include "support/record_compare.hpp"
#include "support/tested_device.hpp"
#include "support/train_afresh.hpp"

using namespace archon;
using namespace archon::test;

namespace {

constexpr double kFromHuggingFace = 2e-5;  // of the tensor's largest magnitude
constexpr int64_t kSteps = 5;

/// On the stand-in for GPUs, whose streams are threads that wait for cores, more than two ranks
/// test what differs from two: heads that ranks share.
bool all_on(int ranks) { return !kStandIn || ranks <= 2; }

std::vector<std::string> cases(int ranks) {
  if (!all_on(ranks)) return {"q3_kv2_h8"};
  return {"q2_tiny_tied", "q3_tiny", "q3_kv2_h8", "q2_critic"};
}

/// A way to spend memory; none of them may change a result.
struct Variant {
  std::string name;
  MemoryOptions memory;
};

const Variant kDefault = {"", {}};

std::vector<Variant> variants(int ranks) {
  using Mode = ActivationCheckpointing::Mode;
  std::vector<Variant> all = {
      kDefault,
      {"-none", {.shard = ShardMode::none, .activations = {.checkpointing = {}, .mlp_tile_tokens = 3}}},
      {"-optimizer-every", {.shard = ShardMode::optimizer,
                            .activations = {.checkpointing = {Mode::every, 2}}}},
      {"-recompute", {.activations = {.checkpointing = {Mode::full}}}},
      {"-selective", {.activations = {.checkpointing = {Mode::selective}}}},
      {"-held", {.reshard_after_forward = false,
                 .activations = {.checkpointing = {Mode::selective}, .mlp_tile_tokens = 4}}}};
  if (kTestedDevice == DeviceChoice::cpu) return all;
  const Variant offload = {
      "-offload", {.activations = {.checkpointing = {Mode::selective}, .offload = true}}};
  if (!all_on(ranks)) return {kDefault, offload};
  all.push_back(offload);
  return all;
}

std::string record_name(const std::string& name, const MeshShape& shape,
                        const std::string& variant = "") {
  return fmt::format("{}/{}-{}-{}-{}{}", work_folder(std::string("golden") + kDeviceSuffix), name,
                     shape.dp, shape.cp, shape.tp, variant);
}

bool is_critic(const std::string& name) {
  return read_json_file(golden_folder(name) + "/model/config.json").at("architectures").at(0) ==
         "Qwen2ForTokenClassification";
}

RunOptions run_options(const std::string& name, const MeshShape& shape) {
  RunOptions run;
  run.model = golden_folder(name) + "/model";
  run.data = golden_folder(name) + "/batch.h5";
  run.mesh = shape;
  run.device = kTestedDevice;
  // One rank takes everything at once; the meshes take several micro-batches.
  run.micro_batch_tokens = shape.size() == 1 ? 4096 : 40;
  return run;
}

void forward_case(const std::string& name, const MeshShape& shape) {
  const bool critic = is_critic(name);
  ForwardOptions options;
  options.run = run_options(name, shape);
  options.output = record_name(name, shape) + "-forward.h5";
  options.logprobs = options.entropy = options.logits = !critic;
  options.values = critic;
  options.hidden = true;
  run_forward(options, test_environment());
  if (test_environment().world_rank() != 0) return;
  const h5::File golden = h5::File::open(golden_folder(name) + "/golden.h5");
  const h5::File output = h5::File::open(options.output);
  check_group(golden, "/hidden", output, "/hidden", kFromHuggingFace);
  check_close(golden, "/final_norm", output, "/final_norm", kFromHuggingFace);
  for (const char* dataset : {"/logprobs", "/entropy", "/logits", "/values"})
    if (golden.has(dataset)) check_close(golden, dataset, output, dataset, kFromHuggingFace);
}

/// Loss, norm and every gradient of the first step against those of the golden's `group`.
void check_first_step(const h5::File& golden, const std::string& group, const h5::File& record) {
  check_close(golden, group + "/loss", record, "/steps/000001/loss", kFromHuggingFace);
  check_close(golden, group + "/grad_norm", record, "/steps/000001/grad_norm", kFromHuggingFace);
  check_group(golden, group + "/grads", record, "/steps/000001/gradients", kFromHuggingFace);
}

void train_case(const std::string& name, const MeshShape& shape, const Variant& variant) {
  const h5::File golden = h5::File::open(golden_folder(name) + "/golden.h5");
  const std::string group = is_critic(name) ? "/critic" : "/sft";
  TrainOptions options;
  options.run = run_options(name, shape);
  options.run.memory = variant.memory;
  options.output = record_name(name, shape, variant.name);
  options.loss.kind = is_critic(name) ? LossKind::critic : LossKind::sft;
  options.loss.critic.eps_clip = golden.number_attribute(group, "value_eps_clip").value_or(0.0);
  options.steps = kSteps;
  options.batch_sequences = 0;
  options.shuffle = false;
  options.schedule.lr = golden.number_attribute(group, "lr").value();
  options.save_hf = false;
  options.record.file = options.output + "-record.h5";
  options.record.last_step = kSteps;
  options.record.activations = shape.size() == 1 && variant.name.empty();
  train_afresh(options);
  if (test_environment().world_rank() != 0) return;

  const h5::File record = h5::File::open(options.record.file);
  check_first_step(golden, group, record);
  const at::Tensor losses = golden.read(group + "/train_losses");
  const at::Tensor norms = golden.read(group + "/train_grad_norms");
  for (int64_t step = 1; step <= kSteps; ++step) {
    const auto path = fmt::format("/steps/{:06}/", step);
    const auto near = [&](double want, double got) {
      BOOST_CHECK_LE(std::abs(want - got), kWeightsAfterSteps * std::abs(want));
    };
    near(losses[step - 1].item<double>(), record.read_scalar(path + "loss"));
    near(norms[step - 1].item<double>(), record.read_scalar(path + "grad_norm"));
  }
  check_weights(golden, group + "/weights_after", record, "/steps/000005/weights", group + "/grads",
                options.schedule.lr, kSteps);
  if (shape.size() == 1) {
    if (options.record.activations && golden.has("/hidden/0"))
      check_group(golden, "/hidden", record, "/steps/000001/activations/hidden", kFromHuggingFace);
    return;
  }
  const h5::File one_rank = h5::File::open(record_name(name, {1, 1, 1}) + "-record.h5");
  check_close(one_rank, "/steps/000001/loss", record, "/steps/000001/loss", kBetweenMeshes);
  check_close(one_rank, "/steps/000001/grad_norm", record, "/steps/000001/grad_norm",
              kBetweenMeshes);
  check_group(one_rank, "/steps/000001/gradients", record, "/steps/000001/gradients",
              kBetweenMeshes);
  check_weights(one_rank, "/steps/000005/weights", record, "/steps/000005/weights",
                "/steps/000001/gradients", options.schedule.lr, kSteps);
}

/// The oracle's policy losses: their value, norm and every gradient.
void policy_case(const std::string& name, const MeshShape& shape, const std::string& loss) {
  const std::string group = "/" + loss;
  const h5::File golden = h5::File::open(golden_folder(name) + "/golden.h5");
  const auto setting = [&](const char* attribute) {
    return golden.number_attribute(group, attribute).value_or(0.0);
  };
  TrainOptions options;
  options.run = run_options(name, shape);
  options.output = record_name(name, shape, "-" + loss);
  options.loss.kind = loss == "gspo" ? LossKind::gspo : LossKind::grpo;
  options.loss.policy.eps_clip = setting("eps_clip");
  options.loss.eps_clip_higher = setting("eps_clip_higher");
  options.loss.policy.dual_clip = setting("c_clip");
  options.loss.policy.behaviour_weight_cap = setting("behav_imp_weight_cap");
  if (setting("prox_is_behaviour") == 1) options.loss.proximal = Proximal::behaviour;
  options.steps = 1;
  options.batch_sequences = 0;
  options.save_hf = false;
  options.record.file = options.output + "-record.h5";
  options.record.activations = options.record.weights = false;
  train_afresh(options);
  if (test_environment().world_rank() != 0) return;
  const h5::File record = h5::File::open(options.record.file);
  check_first_step(golden, group, record);
}

}  // namespace

BOOST_TEST_GLOBAL_FIXTURE(LoadedPlugins);

BOOST_FIXTURE_TEST_CASE(every_mesh_equals_huggingface_and_one_rank, DeviceRules) {
  const int ranks = test_environment().world_size();
  int ran = 0;
  for (const std::string& name : cases(ranks))
    for (const MeshShape& shape : meshes_for(golden_folder(name) + "/model", ranks)) {
      BOOST_TEST_CONTEXT(name << " on " << to_string(shape)) {
        forward_case(name, shape);
        for (const Variant& variant : variants(ranks))
          BOOST_TEST_CONTEXT("variant " << variant.name) { train_case(name, shape, variant); }
      }
      ++ran;
    }
  BOOST_CHECK_GT(ran, 0);
}

BOOST_FIXTURE_TEST_CASE(policy_losses_equal_huggingface, DeviceRules) {
  const int ranks = test_environment().world_size();
  for (const std::string& name : cases(ranks)) {
    if (is_critic(name)) continue;
    for (const MeshShape& shape : meshes_for(golden_folder(name) + "/model", ranks))
      for (const std::string loss : {"grpo", "gspo", "grpo_onpolicy"})
        BOOST_TEST_CONTEXT(loss << " of " << name << " on " << to_string(shape)) {
          policy_case(name, shape, loss);
        }
  }
}
