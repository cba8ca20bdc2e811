#include "options.hpp"

#include "archon/base/error.hpp"

namespace archon::cli {

void add_mesh_options(OptionSet& options, RunOptions& run) {
  options.group("Mesh and numbers");
  options.add("dp", mesh_axis(run.mesh.dp),
              "data-parallel ranks; dp x cp x tp is the number of ranks, and one of the three may "
              "be -1: computed; for --cp or --tp give --dp N too");
  options.add("cp", mesh_axis(run.mesh.cp), "context-parallel ranks (Ulysses)");
  options.add("tp", mesh_axis(run.mesh.tp), "tensor-parallel ranks");
  options.add("dtype", compute_dtype(run.dtype), "type the model computes in");
  options.add("seed", integer<uint64_t>(run.seed, 0), "seed of everything random");
}

void add_device_option(OptionSet& options, RunOptions& run) {
  options.add("device",
              choice<DeviceChoice>(run.device, {{"auto", DeviceChoice::automatic},
                                                {"cpu", DeviceChoice::cpu},
                                                {"cuda", DeviceChoice::cuda}}),
              "auto = GPUs where every rank sees one, else the CPU");
}

void add_shard_option(OptionSet& options, RunOptions& run) {
  options.group("Memory");
  options.add("shard",
              choice<ShardMode>(run.memory.shard, {{"none", ShardMode::none},
                                                   {"optimizer", ShardMode::optimizer},
                                                   {"full", ShardMode::full}}),
              "over the dp x cp ranks: full = parameters, gathered block by block as they are used, "
              "gradients and optimizer state; optimizer = gradients and optimizer state; none = "
              "everything on every rank");
}

void add_input_options(OptionSet& options, RunOptions& run, const char* data) {
  options.require("model", text(run.model, "DIR"),
                  "HuggingFace folder (config.json and safetensors) or checkpoint");
  options.require("data", text(run.data, "FILE"), data);
}

void add_batch_options(OptionSet& options, RunOptions& run) {
  options.add("micro-batch-tokens", token_count(run.micro_batch_tokens, 1),
              "tokens of one micro-batch per dp rank, before slicing over cp; a longer sequence "
              "gets a micro-batch of its own");
  options.add("max-sequence", token_count(run.max_sequence, 0),
              "longest sequence accepted, in tokens; 0 = any");
  options.add("pad-limit", token_count(run.pad_limit, 1),
              "a micro-batch is padded to a multiple of at most this many tokens (times the ranks "
              "that share it)");
}

void add_plugin_option(OptionSet& options, std::vector<std::string>& plugins) {
  options.add("plugin", texts(plugins, "FILE"),
              "plugin to load, before those of ARCHON_PLUGIN_PATH");
}

void add_session_options(OptionSet& options, SessionOptions& session) {
  options.group("Session");
  add_plugin_option(options, session.plugins);
  options.add("deterministic", on_off(session.deterministic),
              "also turn on LibTorch's deterministic algorithms; the same inputs on the same mesh "
              "give the same bits without it");
  add_process_options(options, session);
}

void add_process_options(OptionSet& options, SessionOptions& session) {
  options.add("threads", integer(session.threads, 0, 4096),
              "threads per rank; 0 = OMP_NUM_THREADS, or else the cores this rank may use divided "
              "by the ranks that share them");
  options.add("collective-timeout", number(session.collective_timeout, kNotNegative, "SECONDS"),
              "end the job when a collective waits longer; 0 = never");
  using log::Level;
  options.add("log-level",
              choice<Level>(session.log_level, {{"debug", Level::debug},
                                                {"info", Level::info},
                                                {"warning", Level::warning},
                                                {"error", Level::error}}),
              "least serious message to print");
  options.add_settings_file();
}

}  // namespace archon::cli
