#include <c10/core/ScalarType.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <numeric>

#include "archon/base/error.hpp"
#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/checkpoint/checkpoint_reader.hpp"
#include "archon/io/hdf5.hpp"
#include "archon/io/safetensors.hpp"
#include "archon/model/config.hpp"
#include "command.hpp"
#include "table.hpp"

namespace archon::cli {
namespace {

namespace fs = std::filesystem;

std::string dtype_name(at::ScalarType dtype) {
  if (dtype == at::ScalarType::Undefined) return "(no number)";
  return std::string(c10::getDtypeNames(dtype).first);
}

int64_t count_elements(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

// ---- HDF5 ---------------------------------------------------------------------------------------

// Targets of a token dataset: by mask, or every token but the first of each sequence.
int64_t count_targets(const h5::File& file, int64_t tokens, int64_t sequences) {
  constexpr int64_t kRowsAtOnce = int64_t{1} << 22;
  if (!file.has("/loss_mask")) return tokens - sequences;
  const int64_t rows = file.info("/loss_mask").rows();
  int64_t targets = 0;
  for (int64_t begin = 0; begin < rows; begin += kRowsAtOnce) {
    const auto mask =
        file.read_rows("/loss_mask", begin, std::min(kRowsAtOnce, rows - begin), at::kByte);
    const uint8_t* const values = mask.const_data_ptr<uint8_t>();
    targets += std::count_if(values, values + mask.numel(), [](uint8_t on) { return on != 0; });
  }
  return targets;
}

void print_token_summary(const h5::File& file) {
  const int64_t tokens = file.info("/input_ids").rows();
  const auto offsets = file.read("/cu_seqlens", at::kLong).contiguous();
  const int64_t* const at = offsets.const_data_ptr<int64_t>();
  const int64_t sequences = offsets.numel() - 1;
  if (sequences < 0 || at[0] != 0 || at[sequences] != tokens) {
    std::cout << fmt::format("token dataset, damaged: cu_seqlens does not run from 0 to {}\n",
                             tokens);
    return;
  }
  int64_t longest = 0;
  for (int64_t i = 0; i < sequences; ++i) longest = std::max(longest, at[i + 1] - at[i]);
  std::cout << fmt::format("token dataset: {} sequences, {} tokens, {} targets, longest {}\n",
                           sequences, tokens, count_targets(file, tokens, sequences), longest);
}

std::vector<std::string> attribute_names(const std::string& path) {
  const h5::Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT));
  const auto add = [](hid_t, const char* name, const H5A_info_t*, void* names) -> herr_t {
    static_cast<std::vector<std::string>*>(names)->push_back(name);
    return 0;
  };
  std::vector<std::string> names;
  H5Aiterate2(file.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, add, &names);
  return names;
}

std::string show_attribute(const h5::File& file, const std::string& name) {
  try {
    return file.string_attribute("/", name).value_or("");
  } catch (const InputError&) {  // not a string
  }
  try {
    return fmt::format("{:g}", file.number_attribute("/", name).value_or(0));
  } catch (const InputError&) {
    return "(neither one string nor one number)";
  }
}

void print_attributes(const h5::File& file) {
  Table table;
  for (const std::string& name : attribute_names(file.path()))
    table.add({name, show_attribute(file, name)});
  table.print(std::cout, "  ");
}

void inspect_hdf5(const std::string& path) {
  const auto file = h5::File::open(path);
  std::cout << path << ": HDF5 file\n";
  print_attributes(file);
  if (file.has("/input_ids") && file.has("/cu_seqlens")) print_token_summary(file);
  Table table;
  table.add({"dataset", "type", "shape"});
  for (const h5::DatasetInfo& info : file.datasets())
    table.add({info.path, dtype_name(info.dtype), show_shape(info.shape)});
  table.print(std::cout);
}

// ---- safetensors and model folders --------------------------------------------------------------

void print_tensors(const std::vector<SafetensorsEntry>& entries) {
  int64_t parameters = 0;
  std::size_t bytes = 0;
  Table table;
  table.add({"tensor", "type", "shape"});
  for (const SafetensorsEntry& entry : entries) {
    parameters += count_elements(entry.shape);
    bytes += entry.end - entry.begin;
    table.add({entry.name, dtype_name(entry.dtype), show_shape(entry.shape)});
  }
  std::cout << fmt::format("{} parameters in {} tensors, {:.1f} MB\n", parameters, entries.size(),
                           static_cast<double>(bytes) / 1e6);
  table.print(std::cout);
}

void inspect_safetensors(const std::string& path) {
  const SafetensorsFile file(path);
  std::cout << path << ": safetensors file\n";
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, entry] : file.entries()) entries.push_back(entry);
  print_tensors(entries);
}

void print_config(const HfConfig& config) {
  Table table;
  for (const auto& [key, value] : config.json().items())
    if (!value.is_structured() || key == "architectures") table.add({key, value.dump()});
  table.print(std::cout, "  ");
}

void inspect_folder(const std::string& path) {
  ARCHON_VALIDATE(fs::exists(fs::path(path) / "config.json"),
                  "{} is not a model folder: it holds no config.json", path);
  const auto config = HfConfig::read(path);
  const WeightFolder weights(path);
  std::cout << path << ": HuggingFace model folder\nconfig.json:\n";
  print_config(config);
  std::vector<SafetensorsEntry> entries;
  for (const std::string& name : weights.names()) entries.push_back(weights.entry(name));
  print_tensors(entries);
}

// ---- checkpoints --------------------------------------------------------------------------------

std::string show_megabytes(int64_t bytes) {
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

void inspect_checkpoint(const std::string& folder) {
  const CheckpointSummary found = summarize_checkpoint(folder);
  std::cout << fmt::format("{}: checkpoint of step {}\n", folder, found.step);
  const std::string files = fmt::format(", {} file{}", found.shards, found.shards == 1 ? "" : "s");
  Table table;
  table.add({"layout", found.layout + (found.shards > 0 ? files : "")});
  table.add({"parameters", fmt::format("{} in {} tensors", found.parameters, found.tensors)});
  table.add({"optimizer state", found.optimizer_state.empty()
                                    ? "none"
                                    : fmt::format("{}", fmt::join(found.optimizer_state, ", "))});
  table.add({"size", show_megabytes(found.bytes)});
  table.print(std::cout, "  ");
  std::cout << "trainer:\n";
  Table trainer;
  for (const auto& [key, value] : found.trainer.items())
    if (!value.is_structured()) trainer.add({key, value.dump()});
  trainer.print(std::cout, "  ");
}

/// Reads all of it; says what is damaged, or what is in it. Exit code.
int verify_and_inspect(const std::string& folder) {
  constexpr int kDamaged = 2;  // wrong input
  int64_t bytes = 0;
  const std::vector<CheckpointDamage> damage = verify_checkpoint(folder, &bytes);
  for (const CheckpointDamage& found : damage)
    std::cout << fmt::format("damaged: {}/{}: {}\n", folder, found.file, found.what);
  if (!damage.empty()) return kDamaged;
  inspect_checkpoint(folder);
  std::cout << fmt::format("sound: {} fit their checksums\n", show_megabytes(bytes));
  return 0;
}

/// The folder of a checkpoint, "" if `path` names none. One that is not complete is one, too, when
/// it is to be verified.
std::string checkpoint_folder(const std::string& path, bool complete) {
  for (const char* file : {"manifest.json", "index.h5"})
    if (!complete && fs::exists(fs::path(path) / file)) return path;
  const auto checkpoint = find_checkpoint(path);
  return checkpoint ? checkpoint->folder : "";
}

bool begins_like_hdf5(const std::string& path) {
  constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
  std::string start(kSignature.size(), '\0');
  std::ifstream(path, std::ios::binary).read(start.data(), static_cast<long>(start.size()));
  return start == kSignature;
}

class InspectCommand : public LocalCommand {
  void declare(OptionSet& options) override {
    options.argument("FILE|DIR", path_,
                     "HDF5 file, safetensors file, HuggingFace model folder, or checkpoint (also a "
                     "run's output folder: its newest)");
    options.group("Options");
    options.add("verify", flag(verify_),
                "reads all of a checkpoint, compares it with its checksums and names what is "
                "damaged; exit code 2 if anything is");
    options.add_settings_file();
  }

  std::vector<std::pair<std::string, std::string>> examples() const override {
    return {{"archon inspect train.h5", "a token dataset: sequences, tokens, targets"},
            {"archon inspect run/hf", "a model: configuration, parameters, tensors"},
            {"archon inspect run/checkpoints/step-00000100 --verify",
             "a checkpoint, and whether it is sound"}};
  }

  int run() override {
    std::error_code error;
    const bool exists = fs::exists(path_, error);
    ARCHON_VALIDATE(!error, "cannot inspect {}: {}", path_, error.message());
    ARCHON_VALIDATE(exists, "{} does not exist", path_);
    const std::string checkpoint = checkpoint_folder(path_, /*complete=*/!verify_);
    ARCHON_VALIDATE(!verify_ || !checkpoint.empty(),
                    "{} is no checkpoint; only these have checksums to verify", path_);
    if (verify_) return verify_and_inspect(checkpoint);
    if (!checkpoint.empty())
      inspect_checkpoint(checkpoint);
    else if (fs::is_directory(path_))
      inspect_folder(path_);
    else if (begins_like_hdf5(path_))
      inspect_hdf5(path_);
    else if (fs::path(path_).extension() == ".safetensors")
      inspect_safetensors(path_);
    else
      throw_input_error(
          fmt::format("{} is neither an HDF5 file (by its first bytes) nor a "
                      "*.safetensors file, nor a model folder; name one of these",
                      path_));
    return 0;
  }

  std::string path_;
  bool verify_ = false;
};

}  // namespace

std::unique_ptr<Command> make_inspect() { return std::make_unique<InspectCommand>(); }

}  // namespace archon::cli
