#!/usr/bin/env bash
# A Slurm of one node on this machine, beside any other: munged, slurmctld and slurmd with a
# configuration, ports and files of their own.
#
#   tests/slurm/one_node_slurm.sh start FOLDER    FOLDER is made; returns when the node is idle
#   tests/slurm/one_node_slurm.sh stop FOLDER     ends jobs and daemons, and removes FOLDER
#
# After `start`, programs of Slurm find it by SLURM_CONF=FOLDER/slurm.conf. FOLDER must have a
# short path, since sockets lie in it, and be open for other users, as /tmp is.
# On Debian as root it installs slurm-wlm and munge where they are absent.
# Exit code: 0 done, 2 wrong usage or something absent, 3 a daemon does not start.
source "$(dirname -- "${BASH_SOURCE[0]}")/../../job_scripts/common.sh"

patience=30 # seconds for a daemon to start or end

provide_slurm() {
  local program absent=()
  # Debian keeps the daemons where only root looks for programs.
  PATH+=:/usr/sbin:/sbin
  for program in munged slurmctld slurmd sbatch srun; do
    command -v $program >/dev/null || absent+=("$program")
  done
  [[ ${#absent[@]} -gt 0 ]] || return 0
  if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
    fail 2 "Slurm is absent: no ${absent[*]}" "this script installs it only as root on Debian" \
      "as root: apt-get install slurm-wlm munge"
  fi
  (install_packages slurm-wlm munge) || fail 2 "Slurm is absent and cannot be installed"
}

# A TCP port that nobody listens at.
free_port() {
  local port
  until port=$(shuf -n 1 -i 20000-29999) && ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    :
  done
  echo "$port"
}

# Job credentials expire soon, since a requeued job waits for that; jobs are tracked by their
# processes, since containers seldom let anybody make control groups.
write_configuration() {
  local host user cores
  host=$(hostname -s) user=$(id -un) cores=$(core_count)
  cat >"$folder/slurm.conf" <<CONF
ClusterName=archon
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
ReturnToService=2
KillWait=10
NodeName=archon NodeHostname=$host NodeAddr=127.0.0.1 CPUs=$((cores < 2 ? 1 : 2)) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
CONF
  # Control groups are not used, but the plugins read this; without it they look in /etc.
  echo 'CgroupPlugin=cgroup/v1' >"$folder/cgroup.conf"
}

# start_daemon NAME PROGRAM ARGUMENT...
start_daemon() {
  "${@:2}" >>"$folder/$1.out" 2>&1 || fail 3 "$1 does not start" \
    "$(tail -n 3 "$folder/$1.out" "$folder/$1.log" 2>&1)"
}

wait_until_idle() {
  local limit=$((SECONDS + patience))
  until [[ $(sinfo --noheader --format=%t 2>/dev/null) == idle ]]; do
    [[ $SECONDS -lt $limit ]] || fail 3 "the node is not idle after $patience s" \
      "$(sinfo --Node --long 2>&1)" "$(tail -n 5 "$folder/slurmctld.log" "$folder/slurmd.log" 2>&1)"
    sleep 0.2
  done
}

start() {
  [[ ! -e $folder ]] || fail 2 "'$folder' is there already" "stop what runs in it, or name another"
  provide_slurm
  mkdir -p -- "$folder"/{state,spool,munge}
  chmod 755 "$folder"
  chmod 700 "$folder/munge"
  trap '[[ $? -eq 0 ]] || stop' EXIT
  dd if=/dev/urandom of="$folder/munge/key" bs=128 count=1 status=none
  write_configuration
  export ARCHON_ONE_NODE_SLURM=$folder # by which `stop` knows the daemons
  start_daemon munged munged --force --key-file="$folder/munge/key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
  start_daemon slurmctld slurmctld
  start_daemon slurmd slurmd -N archon
  wait_until_idle
}

# The daemons, and those that they started to look after the steps of jobs.
daemons() {
  local entry
  for entry in /proc/[0-9]*; do
    ! grep -qzxF "ARCHON_ONE_NODE_SLURM=$folder" "$entry/environ" 2>/dev/null ||
      echo "${entry#/proc/}"
  done
}

stop() {
  local limit=$((SECONDS + patience)) signal=TERM left
  [[ -f $folder/slurm.conf ]] || fail 2 "no Slurm in '$folder'" "name the folder given to start"
  timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
  while [[ $SECONDS -lt $limit && -n $(timeout 10 squeue --noheader 2>/dev/null) ]]; do
    sleep 0.2
  done
  limit=$((SECONDS + patience))
  while left=$(daemons) && [[ -n $left ]]; do
    # shellcheck disable=SC2086  # one word a process
    kill -$signal $left 2>/dev/null || true
    [[ $SECONDS -lt $limit ]] || fail 3 "these processes do not end: ${left//$'\n'/ }"
    [[ $SECONDS -lt $((limit - patience / 2)) ]] || signal=KILL
    sleep 0.2
  done
  rm -rf -- "$folder"
}

[[ $# -eq 2 || ${1:-} == -h || ${1:-} == --help ]] ||
  fail 2 "$# arguments in place of a command and a folder" "see tests/slurm/one_node_slurm.sh --help"
[[ $1 != -* ]] || { print_help "${BASH_SOURCE[0]}"; exit 0; }
folder=$(realpath -m -- "$2")
export SLURM_CONF=$folder/slurm.conf
case $1 in
  start) start ;;
  stop) stop ;;
  *) fail 2 "unknown command '$1'" "choose start or stop" ;;
esac
