// What a save leaves on the disk, from every mesh.
#include <ATen/ops/equal.h>

#include "archon/base/checksum.hpp"
#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/io/hdf5.hpp"
#include "archon/io/json.hpp"
#include "saved_run.hpp"

using namespace archon;
using namespace archon::test;
namespace fs = std::filesystem;

namespace {

constexpr int64_t kStep = 120, kBlock = int64_t{1} << 20;
const Json kTrainer = {{"epoch", 3}, {"text", "ü\n"}};

BOOST_GLOBAL_FIXTURE(LoadedPlugins);

int ranks() { return test_environment().world_size(); }

std::vector<std::string> shards_of(const std::string& folder) {
  std::vector<std::string> shards;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().filename().string().starts_with("shard-")) shards.push_back(entry.path());
  return shards;
}

void check_tensors(const h5::File& index, const std::map<std::string, at::Tensor>& want) {
  std::size_t tensors = 0;
  for (const h5::DatasetInfo& info : index.datasets())
    tensors += info.path.starts_with("/parameters/") || info.path.starts_with("/optimizer/");
  BOOST_CHECK_EQUAL(tensors, want.size());
  for (const auto& [path, tensor] : want) {
    const at::Tensor got = index.read(path);
    BOOST_CHECK_MESSAGE(got.scalar_type() == at::kFloat && at::equal(got, tensor), path);
  }
}

/// That every dataset below "/" has the sums of its elements below "/checksums".
int64_t check_sums(const h5::File& file) {
  int64_t elements = 0;
  for (const h5::DatasetInfo& info : file.datasets()) {
    if (info.path.starts_with("/checksums/") || info.path.starts_with("/trainer/")) continue;
    const at::Tensor tensor = file.read(info.path).contiguous();
    const at::Tensor sums = file.read("/checksums" + info.path);
    elements += tensor.numel();
    BOOST_REQUIRE_EQUAL(sums.numel(), (tensor.numel() + kBlock - 1) / kBlock);
    for (int64_t i = 0; i < sums.numel(); ++i) {
      const int64_t count = std::min(kBlock, tensor.numel() - i * kBlock);
      const uint64_t sum = xxh3_64(tensor.const_data_ptr<float>() + i * kBlock, count * 4);
      BOOST_CHECK_EQUAL(sums.const_data_ptr<uint64_t>()[i], sum);
    }
  }
  return elements;
}

void check_manifest(const std::string& folder) {
  const Json manifest = read_json_file(folder + "/manifest.json");
  BOOST_CHECK_EQUAL(manifest.at("step"), kStep);
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(folder)) files += entry.is_regular_file();
  BOOST_CHECK_EQUAL(manifest.at("files").size() + 1, files);  // itself
  for (const Json& file : manifest.at("files")) {
    int64_t bytes = 0;
    const uint64_t sum = xxh3_64_of_file(folder + "/" + file.at("name").get<std::string>(), &bytes);
    BOOST_CHECK_EQUAL(file.at("bytes"), bytes);
    BOOST_CHECK_EQUAL(file.at("xxh3_64"), fmt::format("{:016x}", sum));
  }
}

/// That `folder` is a whole checkpoint in shards of these tensors.
void check_shards(const std::string& folder, const std::map<std::string, at::Tensor>& want) {
  const h5::File index = h5::File::open(folder + "/index.h5");
  BOOST_CHECK_EQUAL(index.string_attribute("/", "schema").value(), "archon.checkpoint");
  BOOST_CHECK_EQUAL(index.string_attribute("/", "layout").value(), "shards");
  BOOST_CHECK_EQUAL(index.number_attribute("/", "step").value(), kStep);
  check_tensors(index, want);
  int64_t elements = 0, saved = 0;
  for (const auto& [path, tensor] : want) elements += tensor.numel();
  for (const std::string& shard : shards_of(folder)) {
    const h5::File file = h5::File::open(shard);
    BOOST_CHECK_EQUAL(file.string_attribute("/", "schema").value(), "archon.checkpoint_shard");
    saved += check_sums(file);
  }
  BOOST_CHECK_EQUAL(saved, elements);  // nothing twice
  check_manifest(folder);
}

std::string latest(const std::string& checkpoints) {
  return read_bytes(checkpoints + "/latest");
}

void save_case(const std::string& model, const MeshShape& shape, ShardMode mode) {
  BOOST_TEST_MESSAGE(model << ", " << to_string(shape) << ", mode " << static_cast<int>(mode));
  SavedRun run(model, shape, mode);
  const SharedFolder folder(run.mesh.world());
  const std::string checkpoints = folder.path() + "/checkpoints";
  CheckpointWriter writer = run.writer(checkpoints);
  const CheckpointResult result = writer.save(kStep, kTrainer);
  BOOST_CHECK_EQUAL(result.failure, "");
  BOOST_CHECK(result.complete);
  BOOST_CHECK_EQUAL(result.step, kStep);
  BOOST_CHECK_EQUAL(result.folder, checkpoints + "/step-00000120");
  BOOST_CHECK_EQUAL(writer.poll().step, 0);
  BOOST_CHECK_EQUAL(writer.finish().step, 0);
  const auto want = run.tensors();
  if (run.mesh.world().rank() == 0) {
    check_shards(result.folder, want);
    BOOST_CHECK_EQUAL(latest(checkpoints), "step-00000120\n");
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_save_holds_every_element_once_from_every_mesh) {
  for (const char* model : {"q2_tiny_tied", "q3_kv2_h8", "q2_critic"})
    for (const MeshShape& shape : meshes_for(golden_folder(model) + "/model", ranks()))
      for (const ShardMode mode : {ShardMode::none, ShardMode::optimizer, ShardMode::full})
        save_case(model, shape, mode);
}
