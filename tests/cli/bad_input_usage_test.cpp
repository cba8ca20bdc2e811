// Options and meshes that do not fit; and the same inputs unedited, which must run.
#include "inputs.hpp"

using namespace archon;
using namespace archon::test;

BOOST_AUTO_TEST_CASE(unedited_inputs_run) {
  const Inputs inputs;
  check_runs(1, inputs.train());
  check_runs(2, inputs.eval({"--cp", "2"}));
  check_runs(4, inputs.train({"--cp", "2", "--tp", "2"}));
  check_runs(4, inputs.forward({"--tp", "2", "--output", inputs.folder / "forward.h5"}));
  const Inputs critic("q2_critic");
  check_runs(2, critic.train({"--loss", "critic"}));
}

BOOST_AUTO_TEST_CASE(meshes_that_are_not_the_ranks) {
  const Inputs inputs;
  check_bad_input(1, inputs.train({"--dp", "2"}), {"dp 2 x cp 1 x tp 1", "needs 2", "1 were"});
  check_bad_input(2, inputs.train({"--dp", "1"}), {"dp 1 x cp 1 x tp 1", "2 were started"});
  check_bad_input(4, inputs.forward({"--cp", "3"}), {"cp 3", "4 ranks", "does not divide"});
  check_bad_input(4, inputs.eval({"--tp", "-1", "--dp", "3"}), {"dp 3", "does not divide 4"});
  check_bad_input(2, inputs.train({"--cp", "-1"}), {"two axes are -1", "only one", "give --dp N"});
  check_bad_input(2, inputs.train({"--dp", "1", "--cp", "-1", "--tp", "-1"}), {"give --cp N"});
  check_bad_input(2, inputs.train({"--dp", "100000", "--cp", "100000", "--tp", "100000"}),
                  {"needs 1000000000000000 ranks", "2 were started"});
  check_bad_input(2, inputs.train({"--dp", "1000000000"}), {"--dp 1000000000", "from 1 to"});
  for (const char* value : {"0", "-2", "two", "1.5", "99999999999"})
    check_bad_input(1, inputs.train({"--cp", value}), {"--cp", value, "or -1"});
  check_bad_input(4, inputs.train({"--tp", "0"}), {"--tp 0 must be a whole number"});
}

BOOST_AUTO_TEST_CASE(head_counts_that_do_not_fit_name_the_nearest_that_do) {
  const Inputs inputs;
  check_bad_input(4, inputs.train({"--tp", "4"}),
                  {"--tp 4", "4 attention heads", "2 key/value", "nearest first: 2, 1"});
  check_bad_input(3, inputs.eval({"--cp", "3"}),
                  {"--cp 3", "4 attention heads", "2 key/value", "nearest first: 2, 4, 1"});
}

// Where there are GPUs, the processes started here see none.
BOOST_AUTO_TEST_CASE(devices_that_are_not_there) {
  setenv("CUDA_VISIBLE_DEVICES", "", 1);
  const Inputs inputs;
  for (const int ranks : {1, 2})
    check_bad_input(ranks, inputs.train({"--device", "cuda"}),
                    {"--device cuda", "CUDA", "give every rank a GPU", "--device cpu"});
  check_bad_input(1, inputs.eval({"--device", "gpu"}), {"--device gpu", "auto", "cuda"});
  check_bad_input(1, inputs.train({"--activation-offload", "on"}),
                  {"--activation-offload on", "--activation-checkpointing full"});
  check_bad_input(
      1, inputs.train({"--activation-offload", "on", "--activation-checkpointing", "full"}),
      {"--activation-offload on", "computes on the CPU"});
  check_runs(2, inputs.eval({"--device", "auto"}));
}

BOOST_AUTO_TEST_CASE(options_that_are_wrong) {
  const Inputs inputs;
  check_bad_input(1, inputs.train({"--learning-rate", "1"}), {"--learning-rate", "train --help"});
  check_bad_input(4, inputs.train({"--learning-rate", "1"}), {"--learning-rate", "train --help"});
  check_bad_input(1, inputs.train({"--lr"}), {"--lr"});
  check_bad_input(1, inputs.train({"--lr", "nan"}), {"--lr nan"});
  check_bad_input(1, inputs.train({"--loss", "dreams"}), {"--loss dreams", "sft"});
  check_bad_input(1, inputs.train({"--epochs", "1"}), {"--steps 2", "--epochs 1", "one of them"});
  check_bad_input(1, inputs.train({"more"}), {"unexpected argument \"more\""});
  check_bad_input(1, inputs.forward({"--what", "logprobs,dreams"}), {"--what", "logprobs"});
  check_bad_input(2, {"train"}, {"missing", "--model DIR", "--data FILE", "--output DIR"});
  check_bad_input(1, {"train", "--model", inputs.model, "--data", inputs.data, "--output", "x"},
                  {"missing --steps N or --epochs N"});
  check_bad_input(1, {"eval", "--model", inputs.model}, {"missing --data FILE"});
  const std::string latin = inputs.folder / "r\xe9";
  check_bad_input(2, inputs.train({"--output", latin}), {"--output " + latin + " must be UTF-8"});
  check_bad_input(1, inputs.train({"--plugin", "\xff.so"}), {"--plugin \xff.so must be UTF-8"});
  check_bad_input(2, {"forwards"}, {"unknown command forwards", "forward"});
  check_bad_input(1, {"init"}, {"missing", "--config FILE", "--output DIR"});
}

BOOST_AUTO_TEST_CASE(settings_files_that_are_wrong) {
  const Inputs inputs;
  const std::string settings = inputs.folder / "settings";
  check_bad_input(2, inputs.train({"--config", settings}), {settings});
  write_bytes(settings, "lr = 1e-3\nlearning-rate = 1\n");
  check_bad_input(2, inputs.train({"--config", settings}), {settings, "learning-rate"});
}

BOOST_AUTO_TEST_CASE(losses_that_are_not_for_the_model) {
  const Inputs inputs, critic("q2_critic"), unread;
  check_bad_input(2, inputs.train({"--loss", "critic"}), {"--loss critic", "score head"});
  write_bytes(unread.weights, "none");
  check_bad_input(2, unread.train({"--loss", "critic"}), {"--loss critic", "score head"});
  check_bad_input(2, critic.train({"--loss", "sft"}), {"this model is a critic", "--loss critic"});
  check_bad_input(2, inputs.forward({"--what", "values"}), {"no score head", "logprobs"});
  check_bad_input(1, critic.forward({"--what", "logprobs"}), {"critic", "--what values"});
  check_bad_input(1, inputs.train({"--value-eps-clip", "0.2"}), {"--value-eps-clip 0.2", "critic"});
}

BOOST_AUTO_TEST_CASE(resume_none_refuses_a_used_folder) {
  const Inputs inputs;
  check_runs(1, inputs.train({"--resume", "none"}));
  const std::string before = read_bytes(inputs.output + "/metrics.jsonl");
  check_bad_input(2, inputs.train({"--resume", "none"}),
                  {inputs.output, "holds a run already", "another folder"});
  BOOST_CHECK_EQUAL(read_bytes(inputs.output + "/metrics.jsonl"), before);
}
