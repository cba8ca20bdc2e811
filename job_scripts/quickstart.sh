#!/usr/bin/env bash
# The main job: trains a small Qwen3 on a real text over four MPI ranks (--cp 2 --tp 2), shows
# that one rank computes the same, and that the model has learnt more than word frequencies.
#
#   job_scripts/quickstart.sh [--steps N] [--smoke] [--clean] [--text FILE] [--output DIR]
#
#   --steps N      training steps [320]
#   --smoke        a sub-minute run of few steps, whose loss is shown but not judged
#   --clean        start over; otherwise steps that were done before are not done again
#   --text FILE    train on this text instead of the one from a Debian package
#   --output DIR   where everything goes [out/quickstart in the repository]
#   --help         this text
#
# It ends with the held-out loss before and after, which must be at least 1.0 nat below the
# text's unigram entropy (what a model that knows only frequencies would reach).
# Exit code: 0 done, 1 a result is not as good as it must be, 2 wrong usage or something absent,
# others: the code of the step that failed.
#
# Environment: those of setup.sh, and MPIEXEC, the launcher [mpiexec].
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

# The text: the King James Bible, 4.2 MB of English prose. It was translated in 1611 and is in
# the public domain (the package's copyright file says so; the program that prints it is under
# the GPL). Nothing of it is part of Archon.
text_package=bible-kjv

vocabulary=4096
sequence_length=256
seed=1
full_steps=320
smoke_steps=12
ranks=4
mesh=(--cp 2 --tp 2)
recorded_steps=3

parse_options() {
  steps='' smoke=no clean=no text='' output=$archon_root/out/quickstart
  while [[ $# -gt 0 ]]; do
    case $1 in
      --steps) need_value "$1" $#; steps=$2; shift 2 ;;
      --smoke) smoke=yes; shift ;;
      --clean) clean=yes; shift ;;
      --text) need_value "$1" $#; text=$2; shift 2 ;;
      --output) need_value "$1" $#; output=$2; shift 2 ;;
      -h | --help) print_help "${BASH_SOURCE[0]}"; exit 0 ;;
      *) fail 2 "unknown option '$1'" "see job_scripts/quickstart.sh --help" ;;
    esac
  done
  if [[ -z $steps ]]; then
    if [[ $smoke == yes ]]; then steps=$smoke_steps; else steps=$full_steps; fi
  fi
  [[ $steps =~ ^[1-9][0-9]*$ && $steps -ge $recorded_steps ]] ||
    fail 2 "--steps $steps is not a number of at least $recorded_steps" \
      "the first $recorded_steps steps are compared with one rank"
  [[ -z $text || -r $text ]] || fail 2 "the text '$text' cannot be read" "correct --text FILE"
  [[ -z $text ]] || text=$(realpath -- "$text")
  output=$(realpath -m -- "$output")
}

# --- steps: done once, again when they or one before them changed ----------------------------

current=
changed=no
trap '[[ -z $current ]] ||
  printf "       stopped in the step: %s; run again to go on there\n" "$current" >&2' EXIT

# step NAME FUNCTION ARGUMENT...
step() {
  local stamp="$output/.done/${1// /-}" key="${*:2}"
  current=$1
  if [[ $changed == no && -f $stamp && $(<"$stamp") == "$key" ]]; then
    say "$1: done before"
  else
    changed=yes
    say "$1"
    rm -f -- "$stamp"
    "${@:2}"
    printf '%s\n' "$key" >"$stamp"
  fi
  current=
}

get_text() {
  if [[ -n $text ]]; then
    cp -- "$text" "$output/text.txt"
    return
  fi
  if ! command -v bible >/dev/null; then
    if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
      fail 2 "the text is not here: no program 'bible' of the Debian package $text_package" \
        "this script installs it only as root on Debian" \
        "install the package, or give a text of some megabytes with --text FILE"
    fi
    install_packages "$text_package"
  fi
  # One verse a line; its reference ("Ge1:1 ") is no prose.
  bible -f gen1:1-rev22:21 | sed -E 's/^[^ ]+ //' >"$output/text.txt"
}

make_dataset() {
  "$archon_python" "$archon_root/tools/prepare_dataset.py" --source "text:$output/text.txt" \
    --train-bpe $vocabulary --tokenizer-output "$output/tokenizer" \
    --sequence-length $sequence_length --seed $seed --output "$output/train.h5" \
    --held-out 0.03 --held-out-output "$output/held_out.h5"
}

# A Qwen3 of 6.8 million parameters, with a key/value head for each of cp x tp ranks.
make_model() {
  cat >"$output/init.json" <<JSON
{
  "architectures": ["Qwen3ForCausalLM"],
  "model_type": "qwen3",
  "vocab_size": $vocabulary,
  "hidden_size": 256,
  "intermediate_size": 768,
  "num_hidden_layers": 6,
  "num_attention_heads": 8,
  "num_key_value_heads": 4,
  "head_dim": 32,
  "hidden_act": "silu",
  "max_position_embeddings": 1024,
  "rms_norm_eps": 1e-06,
  "rope_theta": 10000.0,
  "attention_bias": false,
  "attention_dropout": 0.0,
  "use_sliding_window": false,
  "initializer_range": 0.02,
  "tie_word_embeddings": false,
  "bos_token_id": null,
  "eos_token_id": 0,
  "torch_dtype": "float32"
}
JSON
  rm -rf -- "$output/init"
  "$archon" init --config "$output/init.json" --seed $seed --output "$output/init"
  cp -- "$output/tokenizer/"* "$output/init/"
}

# The same for any number of ranks. The first steps lie in the warm-up, where the learning rate
# does not depend on the number of steps, so that a run of three can be compared with a long one.
training_options() {
  printf '%s\n' --model "$output/init" --data "$output/train.h5" --seed $seed \
    --batch-sequences 16 --micro-batch-tokens 4096 --lr 2e-3 --warmup-steps 20 \
    --lr-schedule cosine --min-lr-ratio 0.1 --record-steps 1-$recorded_steps
}

train() {
  local options
  mapfile -t options < <(training_options)
  rm -rf -- "$output/hf" "$output"/metrics.*
  launch "$archon" train "${mesh[@]}" "${options[@]}" --steps "$1" --output "$output" \
    --eval-data "$output/held_out.h5" --eval-every $(((steps + 3) / 4)) \
    --record "$output/first_steps_mesh.h5"
}

train_on_one_rank() {
  local options
  mapfile -t options < <(training_options)
  rm -rf -- "$output/one_rank"
  "$archon" train "${options[@]}" --steps $recorded_steps --output "$output/one_rank" \
    --save-hf off --record "$output/first_steps_one_rank.h5"
}

launch() {
  local launcher=("${MPIEXEC:-mpiexec}" -n "$ranks")
  # Open MPI counts cores and refuses more ranks than that; other launchers do not.
  if is_open_mpi "${launcher[0]}"; then launcher+=(--oversubscribe); fi
  "${launcher[@]}" "$@"
}

evaluate() { "$archon" eval --model "$1" --data "$output/held_out.h5" >"$2"; }

# Float32 sums in another order differ by rounding. AdamW divides a gradient by its own size: where
# that is rounding, too, a weight goes another way. So weights may be off by two of the first step's
# learning rates (2e-3 / 20); a step that is wrong shows in the gradients of the next one.
compare_ranks() {
  cat >"$output/tolerances.txt" <<TEXT
# dataset             rtol  atol
/steps/*/weights/*    1e-4  2e-4
TEXT
  "$archon" diff "$output/first_steps_one_rank.h5" "$output/first_steps_mesh.h5" \
    --rtol 1e-4 --tolerances "$output/tolerances.txt" ||
    fail $? "$ranks ranks are not shown to compute what one rank does" \
      "the table above says where, and by how much"
}

draw_loss() {
  "$archon_python" "$archon_root/tools/plot_metrics.py" "loss=$output" --output "$output/loss.png" \
    --smooth $((steps > 100 ? 10 : 1)) --title "Qwen3, 6.8 M parameters, dp 1 x cp 2 x tp 2" \
    --reference "unigram entropy of the text=$(attribute train.h5 unigram_entropy)"
}

attribute() {
  "$archon_python" -c 'import sys, h5py; print(h5py.File(sys.argv[1], "r").attrs[sys.argv[2]])' \
    "$output/$1" "$2"
}

# Prints the numbers; 1 when the model is not at least 1.0 nat better than frequencies.
report() {
  "$archon_python" - "$output" <<'PYTHON'
import json, sys
import h5py

def entropy(name):
    with h5py.File(f"{sys.argv[1]}/{name}.h5", "r") as file:
        return float(file.attrs["unigram_entropy"])

def loss(name):
    with open(f"{sys.argv[1]}/{name}.json") as file:
        return json.load(file)["loss"]

before, after = loss("eval_before"), loss("eval_after")
text, held_out = entropy("train"), entropy("held_out")
gain = min(text, held_out) - after
print(f"held-out loss before training   {before:8.4f} nats per token")
print(f"held-out loss after training    {after:8.4f}")
print(f"unigram entropy of the text     {text:8.4f}   (of its held-out part: {held_out:.4f})")
print(f"after is below the lower by     {gain:8.4f}   (at least 1.0 is asked for)")
sys.exit(gain < 1.0)
PYTHON
}

main() {
  local started=$SECONDS build key judged=0
  parse_options "$@"
  "$archon_root/job_scripts/setup.sh" --preset release
  build=$archon_root/build/release
  archon=$build/bin/archon
  if [[ $clean == yes && -e $output ]]; then
    [[ -d $output/.done ]] || fail 2 "--clean would remove '$output', which this script did not make" \
      "it has no folder .done" "remove it yourself, or choose another --output"
    rm -rf -- "$output"
  fi
  mkdir -p -- "$output/.done" || fail 2 "'$output' cannot be made" "choose another with --output"
  # A new build does the steps of archon again, a changed script all.
  key=$(cat "$archon" "$build"/lib/*.so "$build"/lib/archon/plugins/*.so | cksum)

  step "text" get_text "$text" "$(cksum <"${BASH_SOURCE[0]}")"
  step "token datasets" make_dataset
  step "new model" make_model "$key"
  step "held-out loss before training" evaluate "$output/init" "$output/eval_before.json"
  step "training on $ranks ranks" train "$steps"
  step "first steps on one rank" train_on_one_rank
  step "comparison of $ranks ranks with one" compare_ranks
  step "held-out loss after training" evaluate "$output/hf" "$output/eval_after.json"
  step "loss curve" draw_loss

  say "results after $((SECONDS - started)) s, in $output"
  report || judged=1
  cat <<TEXT
model (HuggingFace folder)      $output/hf
metrics, loss curve             $output/metrics.h5, $output/loss.png
first steps, 4 ranks and 1      $output/first_steps_mesh.h5, $output/first_steps_one_rank.h5
data, tokenizer                 $output/train.h5, $output/held_out.h5, $output/tokenizer
TEXT
  if [[ $smoke == yes ]]; then
    echo "smoke run: $steps steps cannot teach a model anything, so the loss is not judged"
  elif [[ $judged -ne 0 ]]; then
    fail 1 "the model has learnt too little: less than 1.0 nat below the unigram entropy" \
      "train longer with --steps, or look at $output/loss.png for what went wrong"
  fi
}

main "$@"
