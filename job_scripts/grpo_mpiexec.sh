#!/usr/bin/env bash
# grpo.sbatch under mpiexec; see train_mpiexec.sh.
#
#   RANKS=4 MODEL=sft/hf PROMPTS=prompts OUTPUT=run REWARD=arithmetic job_scripts/grpo_mpiexec.sh
ARCHON_ROOT=$(dirname -- "$0")/.. LAUNCHER=mpiexec
export ARCHON_ROOT LAUNCHER
exec bash "$ARCHON_ROOT/job_scripts/grpo.sbatch" "$@"
