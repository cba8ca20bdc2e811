#include <iostream>

#include "archon/base/error.hpp"
#include "archon/engine/run.hpp"
#include "archon/model/plugin_loader.hpp"
#include "command.hpp"

namespace archon::cli {
namespace {

class GenerateCommand : public ParallelCommand {
  void declare(OptionSet& options) override {
    options.group("Model and prompts");
    options.require("model", text(generate_.run.model, "DIR"),
                    "HuggingFace folder (config.json and safetensors) or checkpoint");
    options.require("data", text(generate_.run.data, "FILE"),
                    "HDF5 token dataset, each sequence of which is a prompt");
    options.group("Output");
    options.require("output", text(generate_.output, "FILE"),
                    "HDF5 token dataset of rollouts to write");
    options.add("group-size", integer<int64_t>(generate_.group_size, 1),
                "rollouts of each prompt, written one behind the other");
    options.group("Sampling");
    options.add("max-new-tokens", token_count(generate_.max_new_tokens, 1),
                "longest completion, in tokens");
    options.add("stop-tokens", token_list(generate_.stop_tokens),
                "tokens that end a rollout, and belong to it: ids with commas between them, or "
                "none; without it, the end-of-sequence tokens of generation_config.json or "
                "config.json");
    options.add("temperature", number(generate_.temperature, kNotNegative),
                "divides the logits; 0 = the likeliest token (greedy)");
    options.add("top-k", integer<int64_t>(generate_.top_k, 0),
                "draw only from the N likeliest tokens; 0 = from all");
    options.add("top-p", number(generate_.top_p, kShare),
                "draw only from the fewest likeliest tokens that have this share of the "
                "probability; 1 = from all");
    add_batch_group(options);
    add_mesh_options(options, generate_.run);
    add_session_options(options, session_);
  }

  void add_batch_group(OptionSet& options) {
    options.group("Batch and memory");
    options.add("batch-sequences", integer<int64_t>(generate_.batch_sequences, 1),
                "rollouts that a data-parallel rank works on at a time; as one ends, the next "
                "joins");
    options.add("cache-tokens", token_count(generate_.cache_tokens, 0),
                "fewer of them where they could come to more tokens than this, prompts included; "
                "0 = no bound");
    options.add("micro-batch-tokens", token_count(generate_.run.micro_batch_tokens, 1),
                "prompt tokens that are computed in one pass; a longer prompt gets a pass of its "
                "own");
  }

  void check() const override {
    const bool draws = generate_.temperature > 0;
    ARCHON_VALIDATE(!draws || generate_.temperature >= kTemperature.low,
                    "--temperature {} must be 0, or {}", generate_.temperature, kTemperature.words);
    constexpr const char* kGreedy =
        "belongs to a --temperature above 0: at 0 nothing is drawn; leave one of the two out";
    ARCHON_VALIDATE(draws || generate_.top_k == 0, "--top-k {} {}", generate_.top_k, kGreedy);
    ARCHON_VALIDATE(draws || generate_.top_p == 1, "--top-p {:g} {}", generate_.top_p, kGreedy);
  }

  std::string details() const override {
    return "Prompts are shared out over dp x cp ranks; up to rounding, the mesh and the batch "
           "change no rollout.";
  }

  std::vector<std::pair<std::string, std::string>> examples() const override {
    return {{"archon generate --model qwen3 --data prompts.h5 --output out.h5 --temperature 0",
             "the likeliest continuation of every prompt"},
            {"mpiexec -n 4 archon generate --model run/hf --data prompts.h5 --output rollouts.h5 "
             "--group-size 8 --max-new-tokens 512 --tp 2",
             "groups of eight samples, over dp 2 x tp 2"}};
  }

  int run(MpiEnvironment& mpi) override {
    load_plugins(session_.plugins);
    run_generate(generate_, mpi, std::cout);
    return 0;
  }

  GenerateOptions generate_;
};

}  // namespace

std::unique_ptr<Command> make_generate() { return std::make_unique<GenerateCommand>(); }

}  // namespace archon::cli
