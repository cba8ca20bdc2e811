#!/usr/bin/env bash
# Tests the jobs of job_scripts/ in a Slurm of one node that it sets up and removes again.
#
#   tests/slurm/run.sh [TEST...]     TEST is a name as Train or Train.test_an_error_ends_the_job
#
# Needs root, and on Debian installs slurm-wlm and munge where they are absent.
# Exit code: 0 all passed, 1 some failed, 2 wrong usage, 3 Slurm does not start, 77 nothing was
# tested, since Slurm is absent and cannot be installed.
source "$(dirname -- "${BASH_SOURCE[0]}")/../../job_scripts/common.sh"

[[ ${1:-} != -* ]] || { print_help "${BASH_SOURCE[0]}"; exit 0; }
# A build elsewhere is named so.
[[ -n ${ARCHON_TEST_BINARY_DIR:-} ]] || "$archon_root/job_scripts/setup.sh" --preset release --tests

here=$archon_root/tests/slurm
folder=$(mktemp -d /tmp/archon-slurm.XXXXXX)
trap '[[ ! -e $folder/slurm ]] || "$here/one_node_slurm.sh" stop "$folder/slurm"; rm -rf -- "$folder"' EXIT
chmod 755 "$folder"
code=0
"$here/one_node_slurm.sh" start "$folder/slurm" || code=$?
if [[ $code -eq 2 ]]; then
  say "SKIPPED: the jobs are not tested, since there is no Slurm"
  exit 77
fi
[[ $code -eq 0 ]] || exit "$code"

names=("${@/#/test_jobs.}")
export SLURM_CONF=$folder/slurm/slurm.conf
cd "$here"
# A test that hangs must not keep the daemons.
timeout 800 "${ARCHON_PYTHON:-$archon_python}" -m unittest -v "${names[@]-test_jobs}" || code=1
exit "$code"
