#!/usr/bin/env bash
# Checks on real GPUs what no test without one can: builds with CUDA, runs the contract of every
# collective over NCCL, compares the golden models with HuggingFace on every mesh, and measures. Ten
# minutes, most of them the build; the report is to be sent along with a bug.
#
#   job_scripts/gpu_check.sh [--ranks N] [--report FILE] [--no-build]
#
#   --ranks N       ranks, each with a GPU of its own [GPUs of this host]; where there is one GPU, more
#                   share it, which NCCL allows from 2.30: for correctness, not for speed
#   --report FILE   what was found [gpu_report.txt in the repository]
#   --no-build      take build/cuda as it is
#   --help          this text
#
# Exit code: 0 all passed, 1 something failed, 2 wrong usage or no GPU, 3 the build failed.
#
# Environment: those of setup.sh; LAUNCHER, what starts ranks, their number following [mpiexec -n].
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

parse_options() {
  ranks='' report=$archon_root/gpu_report.txt build=yes
  while [[ $# -gt 0 ]]; do
    case $1 in
      --ranks) need_value "$1" $#; ranks=$2; shift 2 ;;
      --report) need_value "$1" $#; report=$2; shift 2 ;;
      --no-build) build=no; shift ;;
      -h | --help) print_help "${BASH_SOURCE[0]}"; exit 0 ;;
      *) fail 2 "unknown option '$1'" "see job_scripts/gpu_check.sh --help" ;;
    esac
  done
  devices=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1) ||
    fail 2 "no GPU on this host" "nvidia-smi says: ${devices:-it is not there}" \
      "run this on a node with GPUs, inside an allocation"
  gpus=$(wc -l <<<"$devices")
  ranks=${ranks:-$gpus}
  [[ $ranks =~ ^[1-9][0-9]*$ ]] || fail 2 "--ranks $ranks is no number of ranks" "correct it"
  [[ $gpus -gt 1 || $ranks -eq 1 ]] || export NCCL_MULTI_RANK_GPU_ENABLE=1
  read -ra launcher <<<"${LAUNCHER:-mpiexec -n}"
}

# check WHAT RANKS COMMAND...: its output goes to the report; a failure does not stop the others
check() {
  local what=$1 on=$2
  shift 2
  printf '\n== %s, ranks: %s\n' "$what" "$on"
  if timeout 600 "${launcher[@]}" "$on" "$@" 2>&1; then
    printf 'passed: %s, ranks: %s\n' "$what" "$on"
  else
    printf 'FAILED: %s, ranks: %s\n' "$what" "$on"
    failures=$((failures + 1))
  fi
}

# What bfloat16 and its flash attention compute on a GPU, against the CPU.
compare_bfloat16() {
  local golden=$archon_root/tests/golden/q3_tiny device
  for device in cpu cuda; do
    "$archon" forward --device "$device" --dtype bfloat16 --model "$golden/model" \
      --data "$golden/batch.h5" --what logprobs,entropy --output "$work/$device.h5"
  done
  "$archon" diff "$work/cpu.h5" "$work/cuda.h5" --rtol 0.03
}

run_checks() {
  local tests=$build_folder/tests/bin benchmarks=$build_folder/benchmarks count part
  "$archon" --version
  printf 'commit %s\n%s\n' "$(git -C "$archon_root" rev-parse HEAD 2>/dev/null || echo unknown)" "$devices"
  "$archon" doctor
  for part in ops optim; do
    check "kernels: $part" 1 "$tests/test_${part}_cuda" --report_level=short
  done
  check "log-probabilities" "$ranks" "$tests/test_log_probs_cuda" --report_level=short
  check "collectives over NCCL" "$ranks" "$tests/test_communicator_cuda" --report_level=short
  for count in 1 2 4; do
    [[ $count -le $ranks ]] || continue
    check "golden models: HuggingFace, one rank, every mesh" "$count" "$tests/test_golden_cuda" \
      --report_level=short
    check "rollouts: every loss, a resume, every mesh" "$count" "$tests/test_rollouts_cuda" \
      --report_level=short
  done
  printf '\n== bfloat16: the GPU beside the CPU\n'
  compare_bfloat16 || failures=$((failures + 1))
  check "training step" 1 "$benchmarks/bench_train_step" --device cuda --dtype bfloat16 --tokens 16384
  [[ $ranks -eq 1 || $gpus -eq 1 ]] || {
    check "training step" "$ranks" "$benchmarks/bench_train_step" --device cuda --dtype bfloat16 \
      --tokens 16384
    check "collectives, measured" "$ranks" "$benchmarks/bench_collectives" 20 "$work/collectives.json" cuda
  }
  printf '\n%s checks failed\n' "$failures"
  [[ $failures -eq 0 ]]
}

parse_options "$@"
[[ $build == no ]] || "$archon_root/job_scripts/setup.sh" --cuda --tests
build_folder=$archon_root/build/cuda
archon=$build_folder/bin/archon
for program in "$archon" "$build_folder/tests/bin/test_golden_cuda"; do
  [[ -x $program ]] || fail 2 "no $program" "build/cuda was built without tests, or not at all" \
    "leave --no-build away"
done
export ARCHON_TEST_SOURCE_DIR=$archon_root ARCHON_TEST_BINARY_DIR=$build_folder
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
failures=0 status=0
run_checks | tee -- "$report" || status=1
say "the report is $report"
exit "$status"
