#include <algorithm>
#include <iostream>
#include <tuple>

#include "archon/base/log.hpp"
#include "archon/checkpoint/compare.hpp"
#include "archon/io/json.hpp"
#include "command.hpp"
#include "table.hpp"

namespace archon::cli {
namespace {

using Status = DatasetDifference::Status;

constexpr int kExitEqual = 0;
constexpr int kExitDiffers = 1;

std::string status_name(Status status) {
  switch (status) {
    case Status::equal:
      return "equal";
    case Status::within:
      return "within";
    case Status::differs:
      return "DIFFERS";
    case Status::missing_in_a:
      return "NOT IN A";
    case Status::missing_in_b:
      return "NOT IN B";
    case Status::shape:
      return "SHAPE";
    case Status::type:
      return "TYPE";
  }
  return "";
}

bool has_numbers(const DatasetDifference& each) {
  return each.status == Status::equal || each.status == Status::within ||
         each.status == Status::differs;
}

// What cannot be compared comes first, then what differs, then the rest; largest first.
void sort_worst_first(std::vector<DatasetDifference>& datasets) {
  const auto key = [](const DatasetDifference& each) {
    const int weight = !has_numbers(each) ? 0 : each.status == Status::differs ? 1 : 2;
    return std::make_tuple(weight, -each.max_rel, -each.max_abs, each.path);
  };
  std::sort(datasets.begin(), datasets.end(),
            [&](const auto& a, const auto& b) { return key(a) < key(b); });
}

std::string describe_details(const DatasetDifference& each) {
  std::string details = each.detail;
  const auto add = [&](const std::string& text) {
    details += (details.empty() ? "" : "; ") + text;
  };
  if (each.status == Status::differs)
    add(fmt::format("{:.8g} in A, {:.8g} in B; allowed: rtol {:g}, atol {:g}", each.value_a,
                    each.value_b, each.rtol, each.atol));
  if (each.not_finite_a != each.not_finite_b || each.not_finite_a > 0)
    add(fmt::format("{} not finite in A, {} in B", each.not_finite_a, each.not_finite_b));
  return details;
}

/// All that failed and, of what passed, the `passed_rows` worst (0: all).
void print_table(const std::vector<DatasetDifference>& datasets, int64_t passed_rows) {
  Table table;
  table.add({"status", "dataset", "max abs", "max rel", "cosine", "at", "details"});
  int64_t passed = 0;
  for (const DatasetDifference& each : datasets) {
    if (each.passed() && passed_rows > 0 && ++passed > passed_rows) continue;
    const std::string where = each.max_abs > 0 ? show_shape(each.where) : "";
    if (has_numbers(each))
      table.add({status_name(each.status), each.path, fmt::format("{:.3e}", each.max_abs),
                 fmt::format("{:.3e}", each.max_rel), fmt::format("{:.8f}", each.cosine), where,
                 describe_details(each)});
    else
      table.add({status_name(each.status), each.path, "", "", "", "", describe_details(each)});
  }
  table.print(std::cout);
  if (passed > passed_rows)
    std::cout << fmt::format("... and {} more that passed, no worse (--rows 0 shows all)\n",
                             passed - passed_rows);
}

/// What was not compared has no numbers.
Json to_json(const DatasetDifference& each) {
  const auto compared = [&](Json value) { return has_numbers(each) ? value : Json(); };
  return {{"path", each.path},
          {"status", status_name(each.status)},
          {"details", each.detail},
          {"rtol", each.rtol},
          {"atol", each.atol},
          {"max_abs", compared(each.max_abs)},
          {"max_rel", compared(each.max_rel)},
          {"at", compared(each.where)},
          {"value_a", compared(each.value_a)},
          {"value_b", compared(each.value_b)},
          {"cosine", compared(each.cosine)},
          {"not_finite_a", compared(each.not_finite_a)},
          {"not_finite_b", compared(each.not_finite_b)}};
}

class DiffCommand : public LocalCommand {
  void declare(OptionSet& options) override {
    options.argument("A", a_,
                     "the reference: an HDF5 file, a checkpoint (its folder, or an output folder "
                     "for the newest), or a HuggingFace model folder");
    options.argument("B", b_, "what is compared with it");
    options.group("Options");
    options.add("rtol", number(compare_.rtol, kNotNegative),
                "allowed difference relative to the largest magnitude of A's dataset");
    options.add("atol", number(compare_.atol, kNotNegative), "allowed difference beside that");
    options.add("tolerances", text(tolerances_, "FILE"),
                "bounds by dataset: lines 'GLOB rtol [atol]', # begins a comment; the first line "
                "that matches counts, before --rtol and --atol");
    options.add("only", texts(compare_.only, "GLOB"),
                "compare these dataset paths only, as in '/steps/*/gradients/*'");
    options.add("ignore", texts(compare_.ignore, "GLOB"), "leave these dataset paths out");
    options.add("rows", integer<int64_t>(rows_, 0),
                "datasets to show of those that passed, worst first; 0 = all");
    options.add("json", flag(json_), "print JSON in place of the table");
    options.add_settings_file();
  }

  std::string details() const override {
    return "Compares every dataset of numbers, or every tensor; of checkpoints, parameters and\n"
           "optimizer state, whatever their layout and mesh; with a HuggingFace folder, "
           "parameters.\n"
           "An element differs when |a - b| > atol + rtol x (largest magnitude of A's dataset).\n"
           "The table shows the worst dataset first. Exit code 0: nothing differs; 1: something\n"
           "differs, or is in one file only; 2: wrong input.";
  }

  std::vector<std::pair<std::string, std::string>> examples() const override {
    return {{"archon diff run1.h5 run4.h5", "two records, with the default bounds"},
            {"archon diff golden.h5 mine.h5 --rtol 2e-5 --only '/steps/000001/gradients/*'",
             "the gradients of one step"},
            {"archon diff run1/checkpoints/step-00000100 run4 --tolerances bounds.txt",
             "a checkpoint and the newest of another run"},
            {"archon diff a.h5 b.h5 --json --ignore '/steps/*/activations/*'",
             "for a program to read"}};
  }

  int run() override {
    if (!tolerances_.empty()) compare_.tolerances = read_tolerances(tolerances_);
    Comparison comparison = compare_files(a_, b_, compare_);
    for (const std::string& pattern : comparison.unused_patterns)
      log::warning("{}: the pattern {} decides about no dataset that was compared", tolerances_,
                   pattern);
    sort_worst_first(comparison.datasets);
    if (json_)
      print_json(comparison);
    else
      print(comparison);
    return comparison.passed ? kExitEqual : kExitDiffers;
  }

  /// Numbers that are not finite become null; names of datasets may be no UTF-8.
  void print_json(const Comparison& comparison) const {
    Json json = {{"passed", comparison.passed},
                 {"a", a_},
                 {"b", b_},
                 {"rtol", compare_.rtol},
                 {"atol", compare_.atol},
                 {"notes", comparison.notes},
                 {"datasets", Json::array()}};
    for (const DatasetDifference& each : comparison.datasets)
      json["datasets"].push_back(to_json(each));
    std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
  }

  void print(const Comparison& comparison) const {
    const auto& all = comparison.datasets;
    const auto count = [&](auto predicate) {
      return std::count_if(all.begin(), all.end(), predicate);
    };
    const auto equal = count([](const auto& each) { return each.status == Status::equal; });
    const auto within = count([](const auto& each) { return each.status == Status::within; });
    print_table(all, rows_);
    for (const std::string& note : comparison.notes) std::cout << note << '\n';
    const std::string bounds =
        tolerances_.empty() ? fmt::format("rtol {:g} and atol {:g}", compare_.rtol, compare_.atol)
                            : fmt::format("the bounds of {} (else rtol {:g} and atol {:g})",
                                          tolerances_, compare_.rtol, compare_.atol);
    std::cout << fmt::format("{}: {} datasets, {} equal, {} within {}, {} not\n",
                             comparison.passed ? "passed" : "FAILED", all.size(), equal, within,
                             bounds, static_cast<long>(all.size()) - equal - within);
  }

  std::string a_, b_, tolerances_;
  CompareOptions compare_;
  int64_t rows_ = 10;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_diff() { return std::make_unique<DiffCommand>(); }

}  // namespace archon::cli
