#!/usr/bin/env bash
# array_sweep.sbatch under mpiexec, one run of the table after the other; see train_mpiexec.sh.
#
#   RANKS=4 MODEL=qwen3 DATA=train.h5 TABLE=sweep.txt job_scripts/array_sweep_mpiexec.sh --steps 1000
ARCHON_ROOT=$(dirname -- "$0")/.. LAUNCHER=mpiexec STARTED_BY_HAND=yes
export ARCHON_ROOT LAUNCHER STARTED_BY_HAND
exec bash "$ARCHON_ROOT/job_scripts/array_sweep.sbatch" "$@"
