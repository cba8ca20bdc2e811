#!/usr/bin/env bash
# grpo.sbatch under mpiexec; see train_mpiexec.sh.
#
#   RANKS=4 MODEL=sft/hf PROMPTS=prompts OUTPUT=run REWARD=arithmetic job_scripts/grpo_mpiexec.sh
ARCHON_ROOT=$(dirname -- "$0")/.. LAUNCHER=mpiexec STARTED_BY_HAND=yes
export ARCHON_ROOT LAUNCHER STARTED_BY_HAND
exec bash "$ARCHON_ROOT/job_scripts/grpo.sbatch" "$@"
