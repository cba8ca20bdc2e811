// Losses of reinforcement learning on files of rollouts, from their rewards on: every mesh against
// one rank, and one rank against another split, padding and order of the same rollouts.
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <functional>

#include "archon/engine/run.hpp"
#include "archon/io/json.hpp"
#include "support/model_cases.hpp"
#include "support/mpi_main.hpp"
#include "support/record_compare.hpp"
#include "support/rollout_file.hpp"
#include "support/tested_device.hpp"
#include "support/train_afresh.hpp"

using namespace archon;
using namespace archon::test;

namespace {

constexpr int64_t kSteps = 2;

std::string own_folder() { return work_folder(std::string("rollouts") + kDeviceSuffix); }

std::string model(const std::string& name) { return golden_folder(name) + "/model"; }

struct LossCase {
  std::string name;
  std::string model;
  std::function<void(LossOptions&)> choose;
};

const LossCase kLosses[] = {
    {"sft_sequence_mean", "q2_tiny_tied",
     [](LossOptions& loss) { loss.aggregate = Aggregate::sequence_mean; }},
    {"grpo_kl_entropy", "q2_tiny_tied",
     [](LossOptions& loss) {
       loss.kind = LossKind::grpo;
       loss.kl_coefficient = 0.1;
       loss.entropy_coefficient = 0.05;
       loss.reference = model("q3_tiny");
       // The estimator is exponential in how far the log-probabilities of two unrelated models lie
       // apart. As they are (or at 0.7), a unit in the last place of the weights moves one
       // rank's gradients by 8e-6 already; at 1.7 the policies are flat enough for 4e-6.
       loss.temperature = 1.7;
     }},
    {"grpo_kl_reward", "q3_tiny",
     [](LossOptions& loss) {
       loss.kind = LossKind::grpo;
       loss.aggregate = Aggregate::sequence_mean;
       loss.reward_norm = RewardNorm::leave_one_out;
       loss.kl_coefficient = 0.2;
       loss.kl_in_reward = true;
       loss.reference = model("q2_tiny_tied");
       loss.policy.dual_clip = 3;
       loss.policy.behaviour_weight_cap = 4;
       loss.advantages.reward.overlong_length = 12;
       loss.advantages.reward.overlong_buffer = 6;
     }},
    {"gspo_sequence_sum", "q3_tiny",
     [](LossOptions& loss) {
       loss.kind = LossKind::gspo;
       loss.aggregate = Aggregate::sequence_sum;
       loss.length_divisor = 16;
       loss.advantages.divide_by_std = false;
     }},
    {"sapo", "q2_tiny_tied",
     [](LossOptions& loss) {
       loss.kind = LossKind::sapo;
       loss.proximal = Proximal::behaviour;
     }},
    {"ppo", "q3_tiny",
     [](LossOptions& loss) {
       loss.kind = LossKind::ppo;
       loss.critic_model = model("q2_critic");
       loss.advantages.gamma = 0.99;
       loss.advantages.lambda = 0.9;
       loss.advantages.whitening = Whitening::full;
     }},
    {"critic", "q2_critic",
     [](LossOptions& loss) {
       loss.kind = LossKind::critic;
       loss.critic.eps_clip = 0.1;
       loss.critic.error = ValueError::huber;
     }},
    {"dpo", "q2_tiny_tied",
     [](LossOptions& loss) {
       loss.kind = LossKind::dpo;
       loss.dpo.label_smoothing = 0.1;
       loss.reference = model("q3_tiny");
     }},
};

std::string folder_of(const LossCase& loss, const MeshShape& shape, const std::string& variant) {
  return fmt::format("{}/{}-{}-{}-{}{}", own_folder(), loss.name, shape.dp, shape.cp,
                     shape.tp, variant);
}

void write_on_rank_zero(const RolloutFile& file, const std::string& path) {
  if (test_environment().world_rank() == 0) file.write(path);
  MPI_Barrier(MPI_COMM_WORLD);
}

TrainOptions train_options(const std::string& model_name, const std::string& data,
                           const MeshShape& shape) {
  TrainOptions options;
  options.run.model = model(model_name);
  options.run.data = data;
  options.run.mesh = shape;
  options.run.device = kTestedDevice;
  options.optimizer = OptimizerKind::sgd;  // whose steps are as exact as its gradients
  options.schedule.lr = 0.01;
  options.adamw.weight_decay = 0;
  options.clip_grad_norm = 0;
  options.save_hf = false;
  return options;
}

/// Steps on all rollouts, recorded.
void train(const LossCase& loss, const RolloutFile& file, const MeshShape& shape,
           const std::string& variant, int64_t micro_batch_tokens, int64_t pad_limit,
           int64_t steps = kSteps) {
  const std::string folder = folder_of(loss, shape, variant), data = folder + "-data.h5";
  write_on_rank_zero(file, data);
  TrainOptions options = train_options(loss.model, data, shape);
  options.run.micro_batch_tokens = micro_batch_tokens;
  options.run.pad_limit = pad_limit;
  options.output = folder;
  options.steps = steps;
  options.batch_sequences = 0;
  loss.choose(options.loss);
  options.record = {folder + "-record.h5", 1, steps, true, false, false};
  train_afresh(options);
}

Json last_row(const std::string& folder) {
  std::ifstream lines(folder + "/metrics.jsonl");
  std::string last;
  for (std::string line; std::getline(lines, line);) last = line;
  return Json::parse(last);
}

/// Whether a column tells about the loss, not about time, memory and traffic.
bool of_the_loss(const std::string& column) {
  for (const char* part : {"second", "bytes", "messages", "gflops", "share", "step"})
    if (column.find(part) != std::string::npos) return false;
  return true;
}

void check_same(const std::string& want, const std::string& got) {
  const h5::File one = h5::File::open(want + "-record.h5"),
                 other = h5::File::open(got + "-record.h5");
  for (int64_t step = 1; step <= kSteps; ++step) {
    const auto path = fmt::format("/steps/{:06}", step);
    for (const char* scalar : {"/loss", "/grad_norm"})
      check_close(one, path + scalar, other, path + scalar, kBetweenMeshes);
    check_group(one, path + "/gradients", other, path + "/gradients", kBetweenMeshes);
  }
  const Json expected = last_row(want), actual = last_row(got);
  for (const auto& [column, value] : expected.items()) {
    if (!of_the_loss(column) || !value.is_number()) continue;
    BOOST_TEST_CONTEXT(column) {
      const double figure = value.get<double>();
      BOOST_REQUIRE(actual.at(column).is_number());
      BOOST_CHECK_SMALL(actual.at(column).get<double>() - figure,
                        2e-5 * std::max(1.0, std::abs(figure)));
    }
  }
}

}  // namespace

BOOST_TEST_GLOBAL_FIXTURE(LoadedPlugins);

BOOST_FIXTURE_TEST_CASE(every_mesh_equals_one_rank, DeviceRules) {
  const int ranks = test_environment().world_size();
  for (const LossCase& loss : kLosses)
    for (const MeshShape& shape : meshes_for(model(loss.model), ranks))
      BOOST_TEST_CONTEXT(loss.name << " on " << to_string(shape)) {
        // One rank takes everything at once; the meshes take several micro-batches.
        train(loss, RolloutFile(), shape, "", ranks == 1 ? 4096 : 40, 64);
        if (ranks > 1 && test_environment().world_rank() == 0)
          check_same(folder_of(loss, {1, 1, 1}, ""), folder_of(loss, shape, ""));
      }
}

BOOST_FIXTURE_TEST_CASE(neither_split_nor_padding_nor_order_matters, DeviceRules,
                     *boost::unit_test::precondition([](boost::unit_test::test_unit_id) {
                       return test_environment().world_size() == 1;
                     })) {
  for (const LossCase& loss : kLosses) BOOST_TEST_CONTEXT(loss.name) {
      RolloutFile turned;
      // Pairs stay pairs.
      std::rotate(turned.rollouts.begin(), turned.rollouts.begin() + 6, turned.rollouts.end());
      train(loss, turned, {1, 1, 1}, "-turned", 30, 7);
      check_same(folder_of(loss, {1, 1, 1}, ""), folder_of(loss, {1, 1, 1}, "-turned"));
    }
}

// Nothing comes before a first token, whatever sequence was packed there.
BOOST_FIXTURE_TEST_CASE(prepared_values_begin_with_0, DeviceRules) {
  const LossCase loss = {"values", "q2_critic",
                         [](LossOptions& options) { options.kind = LossKind::critic; }};
  for (const MeshShape& shape : meshes_for(model(loss.model), test_environment().world_size()))
    BOOST_TEST_CONTEXT(to_string(shape)) {
      train(loss, RolloutFile(), shape, "", 40, 64, /*steps=*/1);
      if (test_environment().world_rank() != 0) continue;
      const std::string folder = folder_of(loss, shape, ""), data = folder + "-data.h5";
      const std::string name = std::filesystem::path(data).filename().string();
      const at::Tensor values = h5::File::open(folder + "/prepared/" + name).read("/old_values");
      const at::Tensor offsets = h5::File::open(data).read("/cu_seqlens", at::kLong);
      const int64_t sequences = offsets.size(0) - 1;
      for (int64_t i = 0; i < sequences; ++i)
        BOOST_CHECK_EQUAL(values[offsets[i].item<int64_t>()].item<float>(), 0.0F);
      BOOST_CHECK_EQUAL(values.count_nonzero().item<int64_t>(), values.size(0) - sequences);
    }
}

BOOST_FIXTURE_TEST_CASE(the_terms_of_a_policy_loss_add_up, DeviceRules) {
  const auto first_row = [](double kl, double entropy) {
    const LossCase loss = {"terms", "q2_tiny_tied", [&](LossOptions& options) {
                             options.kind = LossKind::grpo;
                             options.kl_coefficient = kl;
                             options.entropy_coefficient = entropy;
                             if (kl > 0) options.reference = model("q3_tiny");
                           }};
    const MeshShape shape = {test_environment().world_size(), 1, 1};
    train(loss, RolloutFile(), shape, "", 4096, 64, /*steps=*/1);
    return last_row(folder_of(loss, shape, ""));
  };
  const auto value = [](const Json& row, const char* column) {
    return row.at(column).get<double>();
  };
  const Json plain = first_row(0, 0), with_all = first_row(0.5, 0.25);
  MPI_Barrier(MPI_COMM_WORLD);
  BOOST_CHECK_EQUAL(value(plain, "entropy"), value(with_all, "entropy"));
  BOOST_CHECK_CLOSE(value(with_all, "loss"),
                    value(plain, "loss") + 0.5 * value(with_all, "kl_reference") -
                        0.25 * value(with_all, "entropy"),
                    1e-4);
}

BOOST_FIXTURE_TEST_CASE(a_folder_feeds_each_file_once_and_a_resume_goes_on_in_it, DeviceRules) {
  const std::string folder =
      own_folder() + fmt::format("/feed-{}", test_environment().world_size());
  const std::string data = folder + "/data";
  if (test_environment().world_rank() == 0) {
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(data);
    RolloutFile(1, 2, 4).write(data + "/001.h5");
    RolloutFile(2, 3, 4).write(data + "/002.h5");
    RolloutFile(3, 2, 4).write(data + "/.003.h5");
  }
  MPI_Barrier(MPI_COMM_WORLD);
  TrainOptions options = train_options("q3_tiny", data, {-1, 1, 1});
  options.loss.kind = LossKind::grpo;
  options.batch_sequences = 4;
  options.epochs = 2;
  options.save.every = 100;
  options.record.activations = false;

  const auto run = [&](const std::string& name, int64_t steps, const std::string& record) {
    options.output = folder + "/" + name;
    options.steps = steps;
    options.record.file = record.empty() ? "" : folder + "/" + record;
    options.record.first_step = 8;
    options.record.last_step = 10;
    run_train(options, test_environment());
  };
  // 2 files of 2 and 3 mini-batches, each twice.
  run("whole", 0, "whole.h5");
  // Ends within the second pass of the second file; its proximal policy is that of step 4.
  run("parts", 7, "");
  run("parts", 0, "parts.h5");
  if (test_environment().world_rank() != 0) return;
  BOOST_CHECK_EQUAL(last_row(folder + "/whole").at("step"), 10);
  BOOST_CHECK_EQUAL(last_row(folder + "/parts").at("step"), 10);
  const h5::File whole = h5::File::open(folder + "/whole.h5"),
                 parts = h5::File::open(folder + "/parts.h5");
  for (const h5::DatasetInfo& info : whole.datasets("/steps/000010"))
    BOOST_CHECK_MESSAGE(at::equal(whole.read(info.path), parts.read(info.path)), info.path);
}

BOOST_AUTO_TEST_CASE(what_a_loss_cannot_use_is_refused_before_any_step) {
  struct Fault {
    const char* name;
    std::function<void(RolloutFile&)> damage;
    std::function<void(LossOptions&)> choose;
    std::vector<std::string> parts;
  };
  const auto grpo = [](LossOptions&) {};
  const Fault faults[] = {
      {"nan_reward",
       [](RolloutFile& f) { f.rollouts[3].reward = NAN; },
       grpo,
       {"/rewards[3]", "nan"}},
      {"short_rewards",
       [](RolloutFile& f) { f.drop_last_reward = true; },
       grpo,
       {"/rewards", "[15]"}},
      {"offsets_out_of_range",
       [](RolloutFile& f) { f.last_offset = 1'000'000; },
       grpo,
       {"/cu_seqlens ends at 1000000"}},
      {"reference_above_0",
       [](RolloutFile& f) { f.reference = 0.5F; },
       [](LossOptions& loss) {
         loss.kl_coefficient = 0.1;
         loss.kl_in_reward = true;
       },
       {"/ref_logprobs[", "0.5"}},
      {"divergence_off_rewards_that_are_not_used",
       [](RolloutFile& f) { f.advantage = 1; },
       [](LossOptions& loss) {
         loss.kl_coefficient = 0.25;
         loss.kl_in_reward = true;
         loss.reference = model("q3_tiny");
       },
       {"/advantages already", "--kl-in reward", "--kl-coefficient 0.25"}},
      {"group_of_one", [](RolloutFile& f) { f.rollouts[5].group = 99; }, grpo, {"99"}},
      {"log_prob_above_0",
       [](RolloutFile& f) { f.rollouts[2].log_probs.back() = 0.5F; },
       grpo,
       {"/logprobs[", "0.5", "sequence 2"}},
      {"no_reference",
       [](RolloutFile&) {},
       [](LossOptions& loss) { loss.kl_coefficient = 1; },
       {"ref_logprobs", "--reference"}},
      {"no_critic",
       [](RolloutFile&) {},
       [](LossOptions& loss) { loss.kind = LossKind::ppo; },
       {"old_values", "--critic"}},
      {"no_proximal",
       [](RolloutFile&) {},
       [](LossOptions& loss) { loss.proximal = Proximal::file; },
       {"/prox_logprobs", "grpo"}},
      {"half_a_pair",
       [](RolloutFile& f) { f.rollouts.pop_back(); },
       [](LossOptions& loss) {
         loss.kind = LossKind::dpo;
         loss.reference = model("q3_tiny");
       },
       {"--loss dpo takes pairs"}},
  };
  for (const Fault& fault : faults) BOOST_TEST_CONTEXT(fault.name) {
      const std::string folder =
          own_folder() + fmt::format("/bad-{}", test_environment().world_size());
      RolloutFile file;
      fault.damage(file);
      write_on_rank_zero(file, folder + "-data.h5");
      TrainOptions options = train_options("q3_tiny", folder + "-data.h5", {-1, 1, 1});
      options.output = folder;
      options.steps = 1;
      options.loss.kind = LossKind::grpo;
      fault.choose(options.loss);
      try {
        train_afresh(options);
        BOOST_ERROR("not refused");
      } catch (const InputError& error) {
        for (const std::string& part : fault.parts)
          BOOST_CHECK_MESSAGE(std::string(error.what()).find(part) != std::string::npos,
                              part << " is not in: " << error.what());
      }
      BOOST_CHECK(!std::filesystem::exists(folder + "/metrics.jsonl"));
      MPI_Barrier(MPI_COMM_WORLD);
    }
}
