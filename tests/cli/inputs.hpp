#pragma once

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <sstream>

#include <fmt/ranges.h>

#include "archon/io/hdf5.hpp"
#include "archon/io/json.hpp"
#include "cli_support.hpp"

namespace archon::test {

/// Inputs that are good (a tiny model with its batch, 256 tokens, 4 heads, 2 key/value heads), in a
/// folder of the test's own, where it may spoil them.
struct Inputs {
  explicit Inputs(const std::string& golden = "q3_tiny") {
    const std::string source = test_file("golden/" + golden);
    std::filesystem::copy(source + "/model", model, std::filesystem::copy_options::recursive);
    std::filesystem::copy(source + "/batch.h5", data);
  }

  /// Command lines with the required options, and more.
  std::vector<std::string> train(const std::vector<std::string>& more = {}) const {
    return with({"train", "--model", model, "--data", data, "--output", output, "--steps", "2"},
                more);
  }
  std::vector<std::string> eval(const std::vector<std::string>& more = {}) const {
    return with({"eval", "--model", model, "--data", data}, more);
  }
  std::vector<std::string> forward(const std::vector<std::string>& more = {}) const {
    return with({"forward", "--model", model, "--data", data, "--output", output}, more);
  }

  std::vector<std::string> generate(const std::vector<std::string>& more = {}) const {
    return with({"generate", "--model", model, "--data", data, "--output", output}, more);
  }

  void edit_config(const std::function<void(Json&)>& edit) const {
    Json config = read_json_file(model + "/config.json");
    edit(config);
    write_bytes(model + "/config.json", config.dump());
  }

  /// Edits the header and the data of the weights; the header's length follows.
  void edit_weights(const std::function<void(Json&, std::string&)>& edit) const {
    const std::string bytes = read_bytes(weights);
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    Json header = Json::parse(bytes.substr(8, length));
    std::string values = bytes.substr(8 + length);
    edit(header, values);
    std::string text = header.dump();
    text.append((8 - text.size() % 8) % 8, ' ');
    length = text.size();
    write_bytes(weights,
                std::string(reinterpret_cast<const char*>(&length), sizeof length) + text + values);
  }

  /// Replaces the data: /input_ids, /cu_seqlens and more datasets.
  void write_data(const at::Tensor& ids, const at::Tensor& offsets,
                  const std::vector<std::pair<std::string, at::Tensor>>& more = {}) const {
    auto file = h5::File::create(data, "tokens", 1);
    if (ids.defined()) file.write("/input_ids", ids);
    if (offsets.defined()) file.write("/cu_seqlens", offsets);
    for (const auto& [name, tensor] : more) file.write(name, tensor);
    file.flush();
  }

  TemporaryFolder folder;
  std::string model = folder / "model", data = folder / "batch.h5", output = folder / "out";
  std::string weights = folder / "model/model.safetensors";

 protected:
  /// `more` options replace those of the same name.
  static std::vector<std::string> with(std::vector<std::string> command,
                                       const std::vector<std::string>& more) {
    for (std::size_t i = 1; i + 1 < command.size(); i += 2)
      while (i + 1 < command.size() && std::count(more.begin(), more.end(), command[i]) > 0)
        command.erase(command.begin() + static_cast<long>(i),
                      command.begin() + static_cast<long>(i) + 2);
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }
};

inline ProcessResult run_on(int ranks, const std::vector<std::string>& arguments) {
  return ranks == 1 ? run_archon(arguments) : run_archon_ranks(ranks, arguments);
}

/// The rows of a training run's metrics.
inline std::vector<Json> metrics(const Inputs& inputs) {
  std::istringstream lines(read_bytes(inputs.output + "/metrics.jsonl"));
  std::vector<Json> rows;
  for (std::string line; std::getline(lines, line);) rows.push_back(Json::parse(line));
  return rows;
}

inline int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

/// The command is refused on so many ranks: exit code 2, soon, with one message that holds all of
/// `parts`, and no result.
inline void check_bad_input(int ranks, const std::vector<std::string>& arguments,
                            const std::vector<std::string>& parts) {
  const auto result = run_on(ranks, arguments);
  BOOST_TEST_CONTEXT("on " << ranks << " ranks: " << fmt::format("{}", fmt::join(arguments, " "))) {
    BOOST_CHECK_EQUAL(result.exit_code, 2);
    BOOST_CHECK_EQUAL(result.out, "");
    BOOST_CHECK_MESSAGE(count(result.err, "error: ") == 1, "not one message: " << result.err);
    for (const std::string& part : parts) CHECK_CONTAINS(result.err, part);
    BOOST_CHECK_LT(result.seconds, 20);
  }
}

inline void check_runs(int ranks, const std::vector<std::string>& arguments) {
  const auto result = run_on(ranks, arguments);
  BOOST_CHECK_MESSAGE(result.exit_code == 0, "exit code " << result.exit_code << " of "
                                                          << arguments.front() << " on " << ranks
                                                          << " ranks: " << result.err);
}

/// The process of `rank` that works on `output`; 0 if there is none.
inline pid_t find_rank(const std::string& output, int rank) {
  const std::string variable = fmt::format("OMPI_COMM_WORLD_RANK={}", rank) + '\0';
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string folder = entry.path().string();
    if (contains(read_bytes(folder + "/cmdline"), '\0' + output + '\0') &&
        contains(read_bytes(folder + "/environ"), variable))
      return static_cast<pid_t>(std::stol(entry.path().filename().string()));
  }
  return 0;
}

}  // namespace archon::test
