// Every mesh against HuggingFace's results and against one rank, through the calls behind
// `archon forward` and `archon train`.
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/max.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <filesystem>

#include "archon/base/error.hpp"
#include "archon/engine/run.hpp"
#include "archon/io/hdf5.hpp"
#include "archon/io/json.hpp"
#include "archon/model/plugin_loader.hpp"
#include "archon/model/registry.hpp"
#include "support/mpi_main.hpp"

namespace fs = std::filesystem;
using namespace archon;

namespace {

constexpr double kFromHuggingFace = 2e-5;  // of the tensor's largest magnitude
constexpr double kBetweenMeshes = 1e-5;
constexpr double kWeightsAfterSteps = 2e-4;
constexpr double kNoiseGradient = 1e-4;
constexpr int64_t kSteps = 5;

const std::string kCases[] = {"q2_tiny_tied", "q3_tiny", "q3_kv2_h8", "q2_critic"};

std::string source_folder(const std::string& name) {
  return std::string(std::getenv("ARCHON_TEST_SOURCE_DIR")) + "/tests/golden/" + name;
}

// One-rank records stay for the other meshes' tests (a CTest fixture).
std::string work_folder() {
  const std::string folder = std::string(std::getenv("ARCHON_TEST_BINARY_DIR")) + "/tests/golden";
  fs::create_directories(folder);
  return folder;
}

std::string record_name(const std::string& name, const MeshShape& shape) {
  return fmt::format("{}/{}-{}-{}-{}", work_folder(), name, shape.dp, shape.cp, shape.tp);
}

double largest(const at::Tensor& x) { return x.numel() == 0 ? 0 : x.abs().max().item<double>(); }

/// Largest difference as a share of `want`'s largest magnitude.
double distance(const at::Tensor& want, const at::Tensor& got) {
  BOOST_REQUIRE_EQUAL(want.sizes(), got.sizes());
  const double scale = largest(want),
               difference = largest(want.to(at::kDouble) - got.to(at::kDouble));
  return difference == 0 ? 0 : difference / scale;
}

void check_close(const h5::File& want, const std::string& a, const h5::File& got,
                 const std::string& b, double bound) {
  const double d = distance(want.read(a), got.read(b));
  BOOST_CHECK_MESSAGE(d <= bound, got.path() << ": " << b << " is " << d << " from " << want.path()
                                             << ": " << a << " (bound " << bound << ")");
}

/// Every dataset below `a` must be below `b`.
void check_group(const h5::File& want, const std::string& a, const h5::File& got,
                 const std::string& b, double bound) {
  const auto datasets = want.datasets(a);
  BOOST_REQUIRE(!datasets.empty());
  for (const h5::DatasetInfo& info : datasets)
    check_close(want, info.path, got, b + info.path.substr(a.size()), bound);
}

/// Weights after AdamW steps: where the gradient is rounding noise, the direction of a step is
/// noise too, so such elements may be off by two full steps.
void check_weights(const h5::File& want, const std::string& a, const h5::File& got,
                   const std::string& b, const std::string& gradients, double lr) {
  for (const h5::DatasetInfo& info : want.datasets(a)) {
    const std::string name = info.path.substr(a.size());
    const at::Tensor expected = want.read(info.path), actual = got.read(b + name);
    const at::Tensor gradient = want.read(gradients + name).abs();
    const at::Tensor noise = gradient <= kNoiseGradient * largest(gradient);
    const at::Tensor difference = (expected - actual).abs();
    const double elsewhere = largest(difference * noise.logical_not());
    BOOST_CHECK_LE(elsewhere, kWeightsAfterSteps * largest(expected));
    BOOST_CHECK_LE(largest(difference * noise), 2 * lr * static_cast<double>(kSteps));
  }
}

bool is_critic(const std::string& name) {
  return read_json_file(source_folder(name) + "/model/config.json").at("architectures").at(0) ==
         "Qwen2ForTokenClassification";
}

RunOptions run_options(const std::string& name, const MeshShape& shape) {
  RunOptions run;
  run.model = source_folder(name) + "/model";
  run.data = source_folder(name) + "/batch.h5";
  run.mesh = shape;
  // One rank takes everything at once; the meshes take several micro-batches.
  run.micro_batch_tokens = shape.size() == 1 ? 4096 : 40;
  return run;
}

bool head_rules_allow(const std::string& name, const MeshShape& shape) {
  const HfConfig hf = HfConfig::read(source_folder(name) + "/model");
  const DecoderConfig config = ModelRegistry::instance().find(hf.model_type()).parse_config(hf);
  try {
    validate_tp_heads(config, shape.tp);
    validate_cp_heads(config, shape.cp, shape.tp);
    return true;
  } catch (const InputError&) {
    return false;
  }
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
  const h5::File golden = h5::File::open(source_folder(name) + "/golden.h5");
  const h5::File output = h5::File::open(options.output);
  check_group(golden, "/hidden", output, "/hidden", kFromHuggingFace);
  check_close(golden, "/final_norm", output, "/final_norm", kFromHuggingFace);
  for (const char* dataset : {"/logprobs", "/entropy", "/logits", "/values"})
    if (golden.has(dataset)) check_close(golden, dataset, output, dataset, kFromHuggingFace);
}

void train_case(const std::string& name, const MeshShape& shape) {
  const h5::File golden = h5::File::open(source_folder(name) + "/golden.h5");
  const std::string group = is_critic(name) ? "/critic" : "/sft";
  TrainOptions options;
  options.run = run_options(name, shape);
  options.output = record_name(name, shape);
  options.loss = is_critic(name) ? LossKind::critic : LossKind::sft;
  options.value_eps_clip = golden.number_attribute(group, "value_eps_clip").value_or(0.0);
  options.steps = kSteps;
  options.batch_sequences = 0;
  options.shuffle = false;
  options.schedule.lr = golden.number_attribute(group, "lr").value();
  options.save_hf = false;
  options.record.file = options.output + "-record.h5";
  options.record.last_step = kSteps;
  options.record.activations = shape.size() == 1;
  run_train(options, test_environment());
  if (test_environment().world_rank() != 0) return;

  const h5::File record = h5::File::open(options.record.file);
  check_close(golden, group + "/loss", record, "/steps/000001/loss", kFromHuggingFace);
  check_close(golden, group + "/grad_norm", record, "/steps/000001/grad_norm", kFromHuggingFace);
  check_group(golden, group + "/grads", record, "/steps/000001/gradients", kFromHuggingFace);
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
                options.schedule.lr);
  if (shape.size() == 1) {
    if (golden.has("/hidden/0"))
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
                "/steps/000001/gradients", options.schedule.lr);
}

std::vector<MeshShape> all_meshes(int ranks) {
  std::vector<MeshShape> shapes;
  for (int dp = 1; dp <= ranks; ++dp)
    for (int cp = 1; dp * cp <= ranks; ++cp)
      if (ranks % (dp * cp) == 0) shapes.push_back({dp, cp, ranks / (dp * cp)});
  return shapes;
}

struct Plugins {
  Plugins() { load_plugins({}); }
};

}  // namespace

BOOST_TEST_GLOBAL_FIXTURE(Plugins);

BOOST_AUTO_TEST_CASE(every_mesh_equals_huggingface_and_one_rank) {
  int ran = 0;
  for (const std::string& name : kCases)
    for (const MeshShape& shape : all_meshes(test_environment().world_size())) {
      if (!head_rules_allow(name, shape)) continue;
      BOOST_TEST_CONTEXT(name << " on " << to_string(shape)) {
        forward_case(name, shape);
        train_case(name, shape);
      }
      ++ran;
    }
  BOOST_CHECK_GT(ran, 0);
}
