# shellcheck shell=bash
# What the jobs of this folder (train.sbatch and its kin) share: the launcher, the log, the warning
# before the time limit, and the requeue. Sourced, never run.
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

# need_setting NAME WHAT: a setting without a default has a value
need_setting() {
  [[ -n ${!1:-} ]] || fail 2 "$1 is not set: $2" \
    "set it at the top of the script, or before the command: $1=... sbatch SCRIPT"
}

# --- launcher --------------------------------------------------------------------------------

find_archon() {
  local built=$archon_root/build/release/bin/archon
  if [[ -n ${ARCHON:-} ]]; then
    [[ -x $ARCHON ]] || fail 2 "ARCHON='$ARCHON' is no program" "correct it, or leave it empty"
    archon=$ARCHON
  elif [[ -x $built ]]; then
    archon=$built
  else
    archon=$(command -v archon) || fail 2 "archon is neither built in '$archon_root' nor in PATH" \
      "run job_scripts/setup.sh, load its module, or set ARCHON to the program"
  fi
}

# Without PMIx the ranks end in MPI_Init, with messages that speak of how Open MPI was built.
check_pmix() {
  local offered
  offered=$(srun --mpi=list 2>&1) || fail 2 "srun --mpi=list fails" "$offered"
  grep -qw pmix <<<"$offered" || fail 2 "this Slurm has no PMIx: srun --mpi=list shows" \
    "$(xargs <<<"$offered")" "ranks that srun starts could not find each other without it" \
    "set LAUNCHER=mpiexec, or ask for Slurm's PMIx plugin (mpi_pmix.so)"
}

# The command that starts the ranks, each bound to the cores of its threads.
choose_launcher() {
  local threads=${THREADS:-${SLURM_CPUS_PER_TASK:-${SLURM_JOB_ID:+1}}} more
  read -ra more <<<"${LAUNCHER_OPTIONS:-}"
  ranks=${RANKS:-${SLURM_NTASKS:-1}}
  case ${LAUNCHER:=${SLURM_JOB_ID:+srun}} in
    srun)
      check_pmix
      # srun does not take the number of cores from the allocation.
      launcher=(srun --mpi=pmix --ntasks="$ranks" --cpus-per-task="${threads:-1}" --cpu-bind=cores
        --kill-on-bad-exit=1)
      ;;
    mpiexec | '')
      launcher=(mpiexec -n "$ranks")
      if ! is_open_mpi mpiexec; then
        : # others have other options for binding
      elif [[ -n $threads ]]; then
        launcher+=(--map-by "slot:PE=$threads" --bind-to core -x OMP_NUM_THREADS)
      else
        launcher+=(--bind-to none)
      fi
      ;;
    *) fail 2 "LAUNCHER=$LAUNCHER is neither srun nor mpiexec" "correct it" ;;
  esac
  launcher+=(${more[@]+"${more[@]}"})
  # Without a number of threads archon divides the cores of a host among its ranks.
  [[ -z $threads ]] || export OMP_NUM_THREADS=$threads
}

# --- the warning before the time limit, and the next start -----------------------------------

# A task of an array has no number of its own that names it alone.
job_id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}
job_id=${job_id:-${SLURM_JOB_ID:-}}

# Whether Slurm started this script, and can start it again. Those that are called *_mpiexec.sh are
# started by hand, also in an allocation (salloc).
started_by_slurm() { [[ -n ${SLURM_JOB_ID:-} && ${STARTED_BY_HAND:-no} == no ]]; }

launched=      # process id of the launcher that runs
running=       # the command of archon that it runs
warned=no      # the warning came
interrupted=no # the program was ended because of the time limit

# Asks `train` for a checkpoint; 1 when it ended without one. A process that is still being started
# would be killed by the signal: its first message says that it catches it. One that waits for data
# may have nothing to save, and says so.
save_checkpoint() {
  local before asked
  before=$(progress)
  until [[ $(stat -c %s -- "$log") -gt $log_size ]]; do pause || return 1; done
  asked=$(stat -c %s -- "$log")
  kill -USR1 "$launched" 2>/dev/null || return 1
  while [[ $(progress) == "$before" ]]; do
    grep -q 'nothing to save' <(tail -c "+$((asked + 1))" -- "$log") && return 0
    pause || return 1
  done
}

# A moment; 1 when the program has ended.
pause() {
  kill -0 "$launched" 2>/dev/null || return 1
  sleep 0.5 || true # Slurm may end it, at the time limit
}

# Ends the program that runs, `train` with a checkpoint first. A launcher that is asked to end kills
# its ranks at once (srun) or after a second (mpiexec): too soon to leave the saving to them.
end_program() {
  say "warned of the time limit: ending archon $running"
  if [[ $running == train ]]; then save_checkpoint || return 0; fi
  interrupted=yes
  kill -TERM "$launched" 2>/dev/null || true
}

on_warning() {
  [[ $warned == no ]] || return 0
  warned=yes
  [[ -z $launched ]] || end_program
}

# In a job the ranks get SIGTERM from Slurm, too: it cancels the job, or its time is over.
on_end() {
  if ! started_by_slurm; then
    on_warning
  elif scontrol show job "$job_id" | grep -qw Reason=TimeLimit; then
    interrupted=yes
  fi
}

# run COMMAND ARGUMENT...: archon under the launcher, until it ends; its messages go to the log
run() {
  local code=0
  running=$1
  if [[ $warned == yes ]]; then
    interrupted=yes
    stop_or_requeue
  fi
  printf '== %s, start %d: archon%s\n' "$(date '+%F %T')" "$((${SLURM_RESTART_COUNT:-0} + 1))" \
    "$(printf ' %q' "$@")" >>"$log"
  log_size=$(stat -c %s -- "$log")
  "${launcher[@]}" "$archon" "$@" 2>>"$log" &
  launched=$!
  if [[ $warned == yes ]]; then end_program; fi
  # A signal ends `wait`, not the program.
  while kill -0 "$launched" 2>/dev/null; do wait "$launched" || true; done
  wait "$launched" || code=$?
  launched=
  [[ $code -eq 0 ]] || stop_or_requeue $code
}

# Why the program of this start failed: its own errors rather than what the launcher says of them.
reason() {
  grep -E -m 5 '^archon(\[[0-9]+\])?: error:' < <(tail -c +$((log_size + 1)) -- "$log") ||
    tail -n 5 -- "$log"
}

# After a program that did not come to its end: an error ends the job; a time limit makes Slurm
# start it again, if this start has got any further.
stop_or_requeue() {
  [[ $interrupted == yes ]] || fail "$1" "archon $running failed with exit code $1" \
    "$(reason)" "see $log"
  [[ $(progress) != "$progress_at_start" ]] || fail 3 \
    "the time limit came before this start had left anything to go on from" \
    "so another start would not get further" \
    "raise --time; when a checkpoint was begun, raise SECONDS of --signal=B:USR1@SECONDS, too"
  if ! started_by_slurm; then
    say "ended before its work was done; the same command goes on from there"
    exit 143
  fi
  say "requeued, to go on from $(progress)"
  scontrol requeue "$job_id" || fail 3 "Slurm does not requeue job $job_id" \
    "see its message above" "submit the script again: it goes on from there"
  exit 0
}

# begin NAME FOLDER: before the first `run`. By then the script has defined `progress`, which prints
# something that changes whenever work is done that the next start need not do again.
begin() {
  find_archon
  choose_launcher
  mkdir -p -- "$2/logs" || fail 2 "'$2/logs' cannot be made" "correct OUTPUT"
  log=$2/logs/$1-${job_id:-$(date +%Y%m%d-%H%M%S)}.log
  say "$1 on $ranks ranks, log: $log"
  progress_at_start=$(progress)
}

trap on_warning USR1
trap on_end TERM
