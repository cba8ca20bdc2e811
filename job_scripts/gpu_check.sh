#!/usr/bin/env bash
# Checks on real GPUs what no test without one can: builds with CUDA and runs the contract of every
# collective over NCCL. Ten minutes, most of them the build; the report is to be sent along with a bug.
#
#   job_scripts/gpu_check.sh [--ranks N] [--report FILE] [--no-build]
#
#   --ranks N       ranks, each with a GPU of its own [GPUs of this host]
#   --report FILE   what was found [gpu_report.txt in the repository]
#   --no-build      take build/cuda as it is
#   --help          this text
#
# Exit code: 0 all passed, 1 something failed, 2 wrong usage or no GPU, 3 the build failed.
#
# Environment: those of setup.sh; LAUNCHER, what starts ranks, their number following [mpiexec -n].
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

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
ranks=${ranks:-$(wc -l <<<"$devices")}
[[ $build == no ]] || "$archon_root/job_scripts/setup.sh" --cuda --tests

read -ra launcher <<<"${LAUNCHER:-mpiexec -n}"
program=$archon_root/build/cuda/tests/bin/test_communicator_cuda
[[ -x $program ]] || fail 2 "no $program" "build/cuda was built without tests" "leave --no-build away"
status=0
{
  "$archon_root/build/cuda/bin/archon" --version
  printf 'commit %s\n%s\n' "$(git -C "$archon_root" rev-parse HEAD 2>/dev/null || echo unknown)" "$devices"
  printf '\n== collectives over NCCL, %s ranks\n' "$ranks"
  "${launcher[@]}" "$ranks" "$program" --report_level=short 2>&1
} | tee -- "$report" || status=1
say "the report is $report"
exit "$status"
