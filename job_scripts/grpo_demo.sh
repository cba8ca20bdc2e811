#!/usr/bin/env bash
# Reinforcement learning from end to end: a tiny Qwen3 is fine-tuned on sums for a moment, and then
# GRPO raises the share of unseen problems that it solves by 20 points or more.
#
#   job_scripts/grpo_demo.sh [--seeds "N..."] [--rounds N] [--clean] [--output DIR]
#
#   --seeds "N..." one run for each [1]
#   --rounds N     rounds of generating, rewarding and training [20]
#   --clean        remove what earlier runs with these seeds left
#   --output DIR   where everything goes [out/grpo in the repository]
#   --help         this text
#
# For each seed it prints the accuracy on 1000 problems that no training saw, before and after, as
# greedy decoding answers them; the curves are in OUTPUT/accuracy.png.
# Exit code: 0 done, 1 a model gained less than 20 points, 2 wrong usage or something absent,
# others: the code of the step that failed.
#
# Environment: those of setup.sh.
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

needed_gain=0.2

# Sums of four digits: a model this small learns them gradually, so that it can be stopped half-way.
sft_problems=4000
test_problems=1000
sft_steps=100

# Each round draws answers to new problems from the newest weights, and makes four steps of them.
prompts=64
group_size=16
rollouts_per_step=256
longest_answer=4 # two digits, a newline, and one more for what is wrong
evaluate_every=5

parse_options() {
  seeds=1 rounds=20 clean=no output=$archon_root/out/grpo
  while [[ $# -gt 0 ]]; do
    case $1 in
      --seeds) need_value "$1" $#; seeds=$2; shift 2 ;;
      --rounds) need_value "$1" $#; rounds=$2; shift 2 ;;
      --clean) clean=yes; shift ;;
      --output) need_value "$1" $#; output=$2; shift 2 ;;
      -h | --help) print_help "${BASH_SOURCE[0]}"; exit 0 ;;
      *) fail 2 "unknown option '$1'" "see job_scripts/grpo_demo.sh --help" ;;
    esac
  done
  [[ $seeds =~ ^[0-9]+(\ +[0-9]+)*$ ]] ||
    fail 2 "--seeds '$seeds' are not numbers with blanks between" "give, for one, --seeds '1 2 3'"
  [[ $rounds =~ ^[1-9][0-9]*$ ]] ||
    fail 2 "--rounds $rounds is not a number of at least 1" "leave it out for 20"
  output=$(realpath -m -- "$output")
}

# The folder of this run, new. Only what this script made is removed.
make_folder() {
  if [[ -e $run ]]; then
    [[ $clean == yes ]] ||
      fail 2 "'$run' is there already" "remove it with --clean, or choose another --output"
    [[ -f $run/.grpo-demo ]] ||
      fail 2 "--clean would remove '$run', which this script did not make" \
        "remove it yourself, or choose another --output"
    rm -rf -- "$run"
  fi
  mkdir -p -- "$run/rollouts" || fail 2 "'$run' cannot be made" "choose another with --output"
  touch -- "$run/.grpo-demo"
}

# Runs a command of archon, whose messages go to the run's log.
archon() {
  "$program" "$@" 2>>"$run/log" || fail $? "archon $1 failed" "$(tail -n 5 "$run/log")"
}

make_problems() {
  "$archon_python" "$archon_root/tools/make_arithmetic.py" --seed "$seed" --output "$run/problems" \
    --sft $sft_problems --test $test_problems --rounds "$rounds" --prompts $prompts
}

fine_tune() {
  archon init --config "$run/problems/config.json" --seed "$seed" --output "$run/init"
  archon train --model "$run/init" --data "$run/problems/sft.h5" --output "$run/sft" \
    --seed "$seed" --steps $sft_steps --batch-sequences 128 --lr 3e-3 --warmup-steps 20 \
    --weight-decay 0
}

# answer MODEL PROMPTS OUTPUT OPTION...: writes the model's answers to a file, with their rewards
answer() {
  archon generate --model "$1" --data "$2" --output "$run/new.h5" "${@:4}" \
    --max-new-tokens $longest_answer >>"$run/log"
  # From one file to the other: a folder of rollouts is to grow by whole files.
  archon reward --data "$run/new.h5" --reward arithmetic --output "$3" >"$run/reward.json"
}

# The mean reward of the last answers.
mean_reward() { sed -E 's/.*"mean":([^,}]*).*/\1/' "$run/reward.json"; }

# evaluate MODEL ROUND REWARD: adds to the curve what share of the test problems the model solves
evaluate() {
  answer "$1" "$run/problems/test.h5" "$run/answers.h5" --temperature 0
  echo "$2 $(mean_reward) $3" >>"$run/curve"
  say "seed $seed: round $2/$rounds, mean reward $3, accuracy $(mean_reward)"
}

# Takes each file of rollouts once, in the order of their names: here the one that was added.
train_on_new_rollouts() {
  archon train --loss grpo --model "$run/sft/hf" --data "$run/rollouts" --output "$run/grpo" \
    --seed "$seed" --batch-sequences $rollouts_per_step --lr 3e-4 --weight-decay 0 \
    --save-every 1000000 --keep 1
}

run_seed() {
  local round reward file
  make_folder
  say "seed $seed: problems, and $sft_steps steps of fine-tuning"
  make_problems
  fine_tune
  evaluate "$run/sft/hf" 0 nan
  local model=$run/sft/hf
  for ((round = 1; round <= rounds; ++round)); do
    file=$(printf '%04d.h5' $round)
    answer "$model" "$run/problems/prompts/$file" "$run/rollouts/$file" \
      --group-size $group_size --seed $((1000 * 10#$seed + round))
    reward=$(mean_reward)
    train_on_new_rollouts
    model=$run/grpo/hf
    if ((round % evaluate_every == 0 || round == rounds)); then
      evaluate "$model" $round "$reward"
    fi
  done
}

# Curves of all seeds as a picture; a table; 1 when one gained too little.
report() {
  "$archon_python" - "$output" "$needed_gain" "$seeds" <<'PYTHON'
import sys
import h5py
import numpy as np

output, needed, seeds = sys.argv[1], float(sys.argv[2]), sys.argv[3].split()
gains = []
print("seed  accuracy after SFT  after GRPO  gain")
for seed in seeds:
    rounds, accuracy, reward = np.loadtxt(f"{output}/seed-{seed}/curve", ndmin=2).T
    with h5py.File(f"{output}/seed-{seed}/curve.h5", "w") as file:
        file["step"], file["accuracy"], file["reward"] = rounds.astype(int), accuracy, reward
    gains.append(accuracy[-1] - accuracy[0])
    print(f"{seed:>4}  {accuracy[0]:18.1%}  {accuracy[-1]:10.1%}  {100 * gains[-1]:+.1f} points")
sys.exit(bool(min(gains) < needed))
PYTHON
}

draw() {
  local curves=()
  for seed in $seeds; do curves+=("seed $seed=$output/seed-$seed/curve.h5"); done
  "$archon_python" "$archon_root/tools/plot_metrics.py" "${curves[@]}" \
    --column accuracy --column reward --title "GRPO on sums of four digits, by rounds" \
    --output "$output/accuracy.png"
}

main() {
  local started=$SECONDS seed run judged=0
  parse_options "$@"
  "$archon_root/job_scripts/setup.sh" --preset release
  program=$archon_root/build/release/bin/archon
  for seed in $seeds; do
    run=$output/seed-$seed
    run_seed
  done
  say "results after $((SECONDS - started)) s, in $output"
  report || judged=1
  draw
  [[ $judged -eq 0 ]] || fail 1 "a model gained less than 20 points" \
    "look at $output/accuracy.png; more --rounds may help"
}

main "$@"
