#!/usr/bin/env bash
# Builds the preset cuda: it has to compile and link without a warning, and to work where there is no
# GPU. Installs the wheels of LibTorch's CUDA part first, 3 GB, where they are absent.
#
#   tests/cuda/build.sh
#
# Exit code: 0 all passed, 1 a check failed, 2 something is absent, 3 the build failed
source "$(dirname -- "${BASH_SOURCE[0]}")/../../job_scripts/common.sh"

[[ $# -eq 0 ]] || { print_help "${BASH_SOURCE[0]}"; exit 0; }
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

"$archon_root/job_scripts/setup.sh" --cuda 2>&1 | tee "$work/build.log"
if grep -i 'warning' "$work/build.log"; then
  fail 1 "the build for GPUs has warnings" "they are above"
fi

golden=$archon_root/tests/golden/q3_tiny
archon=$archon_root/build/cuda/bin/archon
forward=("$archon" forward --model "$golden/model" --data "$golden/batch.h5")
"$archon" doctor | tee "$work/doctor.log"
if ! grep -q '^CUDA  *OK' "$work/doctor.log"; then
  "${forward[@]}" --output "$work/forward.h5" --what logprobs,entropy,logits 2>&1 |
    tee "$work/forward.log"
  grep -q 'computes on the CPU: ' "$work/forward.log" || fail 1 \
    "nothing says why the CPU computes" "--device auto takes it where there is no GPU" "see above"
  "$archon" diff "$golden/golden.h5" "$work/forward.h5" --rtol 2e-5 \
    --only logprobs --only entropy --only logits
  code=0
  "${forward[@]}" --device cuda --output "$work/refused.h5" || code=$?
  [[ $code -eq 2 ]] || fail 1 "--device cuda without a GPU ended with $code" "it has to be refused"
fi
say "the build for GPUs passed"
