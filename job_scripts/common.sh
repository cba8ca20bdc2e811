# shellcheck shell=bash
# Shared by the scripts of job_scripts/ and tests/; sourced, never run.
set -euo pipefail

archon_root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
archon_venv=${ARCHON_VENV:-$archon_root/.venv}
# shellcheck disable=SC2034  # used by the scripts that source this file
archon_python=$archon_venv/bin/python

# Open MPI refuses to start as root unless told twice; containers and CI machines often have
# no other user. Without root the variables mean nothing.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

say() { printf '== %s\n' "$*" >&2; }

# fail CODE WHAT WHY-AND-WHAT-TO-DO...: 2 = wrong usage or something absent, 3 = a step failed
fail() {
  local code=$1 line
  shift
  printf 'error: %s\n' "$1" >&2
  shift
  for line in "$@"; do printf '       %s\n' "$line" >&2; done
  exit "$code"
}

# need_value OPTION COUNT: an option that takes a value is not the last word
need_value() { [[ $2 -ge 2 ]] || fail 2 "$1 needs a value" "see --help"; }

# Prints the comment block at the head of a script, which is its help text.
print_help() { sed -n '2,/^[^#]/ { s/^# \{0,1\}//p }' "$1"; }

# Cores this process may use; nproc alone would take OMP_NUM_THREADS for their number.
core_count() { env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc; }

# Compilers at a time: LibTorch's headers take up to 2 GiB in each.
job_count() {
  local jobs memory limit
  jobs=$(core_count)
  memory=$(awk '/^MemAvailable/ { print int($2 / 1024 / 1024) }' /proc/meminfo)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || true)
  if [[ $limit =~ ^[0-9]+$ && $((limit >> 30)) -lt $memory ]]; then
    memory=$((limit >> 30))
  fi
  if [[ $((memory / 2)) -lt $jobs ]]; then jobs=$((memory / 2)); fi
  echo $((jobs > 0 ? jobs : 1))
}

# is_open_mpi LAUNCHER: whether this mpiexec understands Open MPI's options
is_open_mpi() { "$1" --version 2>/dev/null | grep -qiE 'open ?mpi|openrte'; }

# install_packages NAME...: Debian packages; needs root
install_packages() {
  say "installing Debian packages: $*"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || fail 3 "apt-get update failed" \
    "the package registry cannot be reached or its sources are wrong" \
    "mend that, or install by hand: apt-get install $*"
  apt-get install -y -qq --no-install-recommends "$@" >/dev/null || fail 3 "apt-get install failed" \
    "see its messages above" "packages asked for: $*"
}
