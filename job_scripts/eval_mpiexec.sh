#!/usr/bin/env bash
# eval.sbatch under mpiexec; see train_mpiexec.sh.
#
#   RANKS=4 MODEL=run/hf DATA=held_out.h5 RESULT=eval.json job_scripts/eval_mpiexec.sh
ARCHON_ROOT=$(dirname -- "$0")/.. LAUNCHER=mpiexec STARTED_BY_HAND=yes
export ARCHON_ROOT LAUNCHER STARTED_BY_HAND
exec bash "$ARCHON_ROOT/job_scripts/eval.sbatch" "$@"
