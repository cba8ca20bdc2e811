#!/usr/bin/env bash
# Tests training on two hosts, which are network namespaces of this machine.
#
#   tests/hosts/run.sh [TEST...]     TEST is a name as Hosts.test_two_hosts_compute_what_one_computes
#
# Needs root, iproute2 and util-linux; changes nothing outside the namespaces.
# Exit code: 0 all passed, 1 some failed, 2 wrong usage, 77 nothing was tested, since this is not
# root or may not make namespaces.
source "$(dirname -- "${BASH_SOURCE[0]}")/../../job_scripts/common.sh"

[[ ${1:-} != -* ]] || { print_help "${BASH_SOURCE[0]}"; exit 0; }
# CTest has built everything, and names the folder.
[[ -n ${ARCHON_TEST_BINARY_DIR:-} ]] || "$archon_root/job_scripts/setup.sh" --preset release --tests

PATH+=:/usr/sbin:/sbin
if ! reason=$(unshare --net --uts ip link add archon type bridge 2>&1); then
  say "SKIPPED: two hosts are not tested, since there are no network namespaces: $reason"
  exit 77
fi
names=("${@/#/test_hosts.}")
cd "$archon_root/tests/hosts"
exec unshare --net "${ARCHON_PYTHON:-$archon_python}" -m unittest -v "${names[@]-test_hosts}"
