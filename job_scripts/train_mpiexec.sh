#!/usr/bin/env bash
# train.sbatch under mpiexec: on one machine, or in an allocation of any scheduler.
#
#   RANKS=4 MODEL=qwen3 DATA=train.h5 OUTPUT=run job_scripts/train_mpiexec.sh --steps 1000
#
# Settings as there; RANKS is the number of ranks [1], THREADS binds each to so many cores [not
# bound, the cores of a host are divided]. SIGUSR1 or SIGTERM ends it after a checkpoint, with exit
# code 143; the same command goes on from there. In Slurm: LAUNCHER=mpiexec sbatch train.sbatch.
ARCHON_ROOT=$(dirname -- "$0")/.. LAUNCHER=mpiexec STARTED_BY_HAND=yes
export ARCHON_ROOT LAUNCHER STARTED_BY_HAND
exec bash "$ARCHON_ROOT/job_scripts/train.sbatch" "$@"
