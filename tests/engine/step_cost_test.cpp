// What a run says of itself: metrics of cost, and the trace of --profile.
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "archon/base/trace.hpp"
#include "archon/engine/flop.hpp"
#include "archon/engine/profile.hpp"
#include "archon/engine/run.hpp"
#include "archon/engine/step_meter.hpp"
#include "archon/io/hdf5.hpp"
#include "archon/io/json.hpp"
#include "support/model_cases.hpp"
#include "support/mpi_main.hpp"
#include "support/temporary_folder.hpp"
#include "support/train_afresh.hpp"

using namespace archon;
using namespace archon::test;

namespace {

constexpr int64_t kSteps = 4;
const std::string kModel = "q3_tiny";

int world_size() { return test_environment().world_size(); }
bool speaks() { return test_environment().world_rank() == 0; }

TrainOptions train_options(const MeshShape& shape) {
  TrainOptions options;
  options.run.model = golden_folder(kModel) + "/model";
  options.run.data = golden_folder(kModel) + "/batch.h5";
  options.run.mesh = shape;
  options.run.micro_batch_tokens = 40;
  options.output =
      fmt::format("{}/{}-{}-{}", work_folder("step_cost"), shape.dp, shape.cp, shape.tp);
  options.profile.file = options.output + "/trace.json";
  options.profile.last_step = 3;
  options.steps = kSteps;
  options.save_hf = false;
  return options;
}

std::vector<Json> rows(const TrainOptions& options) {
  std::ifstream lines(options.output + "/metrics.jsonl");
  std::vector<Json> rows;
  for (std::string line; std::getline(lines, line);) rows.push_back(Json::parse(line));
  return rows;
}

double flop_of_file(const std::string& data) {
  const TrainingFlop flop(ModelRegistry::instance().find("qwen3").parse_config(
      HfConfig::read(golden_folder(kModel) + "/model")));
  const at::Tensor offsets = h5::File::open(data).read("/cu_seqlens").to(at::kLong);
  const int64_t* const at = offsets.const_data_ptr<int64_t>();
  double total = 0;
  for (int64_t i = 0; i + 1 < offsets.numel(); ++i) total += flop.of_sequence(at[i + 1] - at[i]);
  return total;
}

void check_row(const Json& row, const MeshShape& shape, double flop) {
  const auto number = [&](const std::string& name) { return row.at(name).get<double>(); };
  BOOST_CHECK_CLOSE(number("gflops") * number("seconds"), flop * 1e-9, 1e-6);
  BOOST_TEST(number("gemm_peak_share") > 0);
  BOOST_TEST(row.at("skipped").get<int>() == 0);
  double inside = 0;
  for (const std::string activity : {"compute", "communication", "data", "io"}) {
    const double mean = number(activity + "_seconds");
    BOOST_TEST(mean >= 0);
    BOOST_TEST(number(activity + "_seconds_max") >= mean * (1 - 1e-12));
    if (activity != "io") inside += mean;
  }
  BOOST_TEST(number("compute_seconds") > 0);
  BOOST_TEST(number("data_seconds") > 0);
  // Ranks begin and end a step at slightly different times.
  if (shape.size() == 1) BOOST_TEST(inside <= number("seconds"));
  BOOST_TEST(inside > 0.5 * number("seconds"));
  BOOST_TEST((number("communication_seconds") > 0) == (shape.size() > 1));
  const std::map<std::string, int> sizes = {{"cp", shape.cp}, {"tp", shape.tp}, {"dp", shape.dp}};
  for (const auto& [axis, size] : sizes) {
    BOOST_TEST((row.at(axis + "_bytes").get<int64_t>() > 0) == (size > 1), axis);
    BOOST_TEST((row.at(axis + "_messages").get<int64_t>() > 0) == (size > 1), axis);
  }
  BOOST_TEST((row.at("shard_bytes").get<int64_t>() > 0) == (shape.dp * shape.cp > 1));
}

/// The events of a trace, by process and thread, in order of time; those that nest only.
std::map<std::pair<int, int>, std::vector<Json>> tracks(const Json& trace) {
  std::map<std::pair<int, int>, std::vector<Json>> tracks;
  for (const Json& event : trace.at("traceEvents"))
    if (event.at("ph") == "X") tracks[{event.at("pid"), event.at("tid")}].push_back(event);
  for (auto& [track, events] : tracks)
    std::sort(events.begin(), events.end(), [](const Json& a, const Json& b) {
      const double at = a.at("ts"), bt = b.at("ts");
      return at != bt ? at < bt : a.at("dur").get<double>() > b.at("dur").get<double>();
    });
  return tracks;
}

double begin_of(const Json& event) { return event.at("ts"); }
double end_of(const Json& event) {
  return event.at("ts").get<double>() + event.at("dur").get<double>();
}

/// Checks that the spans of one track nest; returns "step 2/forward/..." paths.
std::set<std::string> nested_paths(const std::vector<Json>& events) {
  constexpr double kRounding = 2e-3;  // microseconds
  std::set<std::string> paths;
  std::vector<const Json*> open;
  for (const Json& event : events) {
    while (!open.empty() && end_of(*open.back()) <= begin_of(event) + kRounding) open.pop_back();
    if (!open.empty()) BOOST_TEST(end_of(event) <= end_of(*open.back()) + kRounding);
    open.push_back(&event);
    std::vector<std::string> names;
    for (const Json* each : open) names.push_back(each->at("name"));
    paths.insert(fmt::format("{}", fmt::join(names, "/")));
  }
  return paths;
}

std::string rank_name(const MeshShape& shape, int rank) {
  return fmt::format("rank {} (dp {}, cp {}, tp {})", rank, rank / (shape.cp * shape.tp),
                     rank / shape.tp % shape.cp, rank % shape.tp);
}

void check_trace(const std::string& file, const MeshShape& shape) {
  const Json trace = read_json_file(file);
  std::map<int, std::string> names;
  for (const Json& event : trace.at("traceEvents"))
    if (event.at("ph") == "M" && event.at("name") == "process_name")
      names[event.at("pid")] = event.at("args").at("name");
  const auto all = tracks(trace);
  for (int rank = 0; rank < shape.size(); ++rank) {
    BOOST_TEST(names[rank] == rank_name(shape, rank));
    const auto paths = nested_paths(all.at({rank, 0}));
    for (const std::string step : {"step 2", "step 3"})
      for (const std::string part :
           {"", "/data", "/forward", "/forward/loss", "/backward", "/reduce", "/optimizer"})
        BOOST_TEST(paths.contains(step + part), step + part);
    for (const std::string step : {"step 1", "step 4"}) BOOST_TEST(!paths.contains(step));
    if (shape.tp > 1) {
      BOOST_TEST(paths.contains("step 2/forward/all_gather tp"));
      BOOST_TEST(paths.contains("step 2/backward/reduce_scatter tp"));
    }
    if (shape.cp > 1) BOOST_TEST(paths.contains("step 3/forward/exchange_others cp"));
    BOOST_TEST(paths.contains("metrics") == (rank == 0));
  }
  BOOST_TEST(names.size() == static_cast<std::size_t>(shape.size()));
}

/// Sums of an axis's bytes in the spans of a step on a rank.
int64_t traced_bytes(const std::string& file, const std::string& axis, int64_t step, int rank) {
  const auto all = tracks(read_json_file(file));
  const auto& events = all.at({rank, 0});
  const auto span = std::find_if(events.begin(), events.end(), [&](const Json& event) {
    return event.at("name") == fmt::format("step {}", step);
  });
  int64_t bytes = 0;
  for (const Json& event : events)
    if (begin_of(event) >= begin_of(*span) && end_of(event) <= end_of(*span) &&
        event.at("args").value("axis", "") == axis)
      bytes += event.at("args").value("bytes", int64_t{0});
  return bytes;
}

bool moves_on_by_itself() {
  int level = 0;
  MPI_Query_thread(&level);
  return level == MPI_THREAD_MULTIPLE;
}

}  // namespace

BOOST_TEST_GLOBAL_FIXTURE(LoadedPlugins);

BOOST_AUTO_TEST_SUITE(step_cost)

BOOST_AUTO_TEST_CASE(flop_of_a_known_model) {
  DecoderConfig config;
  config.hidden_size = 8;
  config.intermediate_size = 16;
  config.num_layers = 3;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 5;
  config.vocab_size = 100;
  // Query and output 8·20 each, key and value 8·10 each, three products of 8·16; head 800.
  const double parameters = 3 * (2 * 160 + 2 * 80 + 3 * 128) + 800;
  BOOST_TEST(TrainingFlop(config).of_sequence(7) == 6 * parameters * 7 + 6 * 3 * 20 * 49.0);
  config.critic = true;
  BOOST_TEST(TrainingFlop(config).per_token == 6 * (parameters - 800 + 8));
}

BOOST_AUTO_TEST_CASE(metrics_and_trace_of_every_mesh) {
  for (const MeshShape& shape : meshes_for(golden_folder(kModel) + "/model", world_size())) {
    const TrainOptions options = train_options(shape);
    train_afresh(options);
    if (!speaks()) continue;
    BOOST_TEST_CONTEXT(to_string(shape)) {
      const auto metrics = rows(options);
      BOOST_REQUIRE_EQUAL(metrics.size(), static_cast<std::size_t>(kSteps));
      for (const Json& row : metrics) check_row(row, shape, flop_of_file(options.run.data));
      check_trace(options.profile.file, shape);
      for (const std::string axis : {"dp", "cp", "tp"}) {
        int64_t most = 0;
        for (int rank = 0; rank < shape.size(); ++rank)
          most = std::max(most, traced_bytes(options.profile.file, axis, 2, rank));
        BOOST_TEST(metrics[1].at(axis + "_bytes").get<int64_t>() == most, axis);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(the_meter_counts_its_step_alone) {
  const Mesh mesh({world_size(), 1, 1}, MPI_COMM_WORLD);
  StepMeter meter(mesh);
  mesh.dp().all_reduce(1.0);
  meter.begin();
  // Rank 0 sends, and rank 0 alone.
  mesh.dp().broadcast(at::zeros({4}), 0);
  meter.end();
  const StepCost first = meter.gather();
  const int64_t others = world_size() - 1;
  BOOST_TEST(first.sent[1].axis == "dp");
  BOOST_TEST(first.sent[1].sent.bytes == 16 * others);
  BOOST_TEST(first.sent[1].sent.messages == others);
  BOOST_TEST(first.peak_memory_bytes > 1 << 20);
  meter.begin();
  meter.end();
  const StepCost second = meter.gather();
  for (const AxisTraffic& axis : second.sent) BOOST_TEST(axis.sent.messages == 0);
}

BOOST_AUTO_TEST_CASE(writing_after_a_step_is_told_with_the_next) {
  const Mesh mesh({world_size(), 1, 1}, MPI_COMM_WORLD);
  StepMeter meter(mesh);
  meter.begin();
  meter.end();
  if (speaks()) {
    const ActivityScope writing(Activity::io, "write");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  const auto io = static_cast<std::size_t>(Activity::io);
  BOOST_TEST(meter.gather().largest[io] < 0.02);
  meter.begin();
  meter.end();
  const StepCost cost = meter.gather();
  BOOST_TEST(cost.largest[io] >= 0.02);
  BOOST_TEST(meter.seconds() < cost.largest[io]);
  BOOST_CHECK_CLOSE(cost.mean[io] * world_size(), cost.largest[io], 10);
}

BOOST_AUTO_TEST_CASE(asynchronous_operations_last_from_start_to_completion) {
  const Mesh mesh({world_size(), 1, 1}, MPI_COMM_WORLD);
  ProfileOptions options{work_folder("step_cost") + "/async.json", 5, 5};
  Profile profile(options, 5, mesh);
  profile.before(5);
  const at::Tensor first = at::zeros({3}), second = at::zeros({2000});
  {
    const TraceSpan span("compute");
    Work one = mesh.world().all_reduce_async(first);
    Work two = mesh.dp().all_reduce_async(second);
    // Long enough for both to be complete, where MPI lets another thread move them on.
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    one.wait();
    two.wait();
  }
  profile.after(5);
  if (!speaks()) return;
  std::map<std::string, std::vector<Json>> operations;
  const Json trace = read_json_file(options.file);
  for (const Json& event : trace.at("traceEvents"))
    if (event.contains("id")) operations[event.at("id")].push_back(event);
  BOOST_TEST(operations.size() ==
             static_cast<std::size_t>(world_size() == 1 ? 0 : 2 * world_size()));
  for (const auto& [id, events] : operations) {
    BOOST_REQUIRE_EQUAL(events.size(), 2u);
    BOOST_TEST(events[0].at("ph") == "b");
    BOOST_TEST(events[1].at("ph") == "e");
    const double begin = events[0].at("ts"), end = events[1].at("ts");
    BOOST_TEST(begin < end);
    if (moves_on_by_itself()) BOOST_TEST(end < 290e3);  // microseconds
    for (const char* key : {"name", "cat", "pid", "args"})
      BOOST_TEST((events[0].at(key) == events[1].at(key)));
  }
  if (world_size() == 1) return;
  const auto all = tracks(trace);
  const auto paths = nested_paths(all.at({0, 0}));
  for (const char* path :
       {"compute/start world", "compute/start dp", "compute/wait world", "compute/wait dp"})
    BOOST_TEST(paths.contains(path), path);
}

BOOST_AUTO_TEST_CASE(a_profile_that_cannot_be_is_refused) {
  const Mesh mesh({world_size(), 1, 1}, MPI_COMM_WORLD);
  BOOST_CHECK_EXCEPTION(Profile({"trace.json", 3, 4}, 2, mesh), InputError,
                        mentions("--profile-steps 3-4", "last step, 2"));
  BOOST_CHECK_EXCEPTION(Profile({"/no/such/trace.json", 1, 1}, 2, mesh), InputError,
                        mentions("/no/such"));
}

BOOST_AUTO_TEST_SUITE_END()
