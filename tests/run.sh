#!/usr/bin/env bash
# Builds Archon with its tests and runs them; the last line says how many passed and failed.
#
#   tests/run.sh [--preset release|debug|sanitize|cuda] [--label REGEX] [-R REGEX]
#
#   --preset NAME   which of CMakePresets.json to test [release]
#   --label REGEX   only tests with such a label, ranks4 for one (see ctest --print-labels)
#   -R REGEX        only tests with such a name
#   --help          this text
#
# JUnit results lie in build/PRESET/tests.xml. Exit code: 0 all passed, 1 some failed,
# 2 wrong usage or something absent, 3 the set-up failed.
source "$(dirname -- "${BASH_SOURCE[0]}")/../job_scripts/common.sh"

preset=release
selection=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --preset) need_value "$1" $#; preset=$2; shift 2 ;;
    --label | -L) need_value "$1" $#; selection+=(-L "$2"); shift 2 ;;
    -R) need_value "$1" $#; selection+=(-R "$2"); shift 2 ;;
    -h | --help) print_help "${BASH_SOURCE[0]}"; exit 0 ;;
    *) fail 2 "unknown option '$1'" "see tests/run.sh --help" ;;
  esac
done

"$archon_root/job_scripts/setup.sh" --preset "$preset" --tests

results=$archon_root/build/$preset/tests.xml
rm -f -- "$results"
status=0
# As many ranks at a time as there are cores; a test with more of them runs alone.
ctest --test-dir "$archon_root/build/$preset" --output-on-failure --no-tests=error \
  --parallel "$(core_count)" --output-junit "$results" ${selection[@]+"${selection[@]}"} ||
  status=1
[[ -f $results ]] || fail 1 "no test ran" "see the messages of ctest above"

# number ATTRIBUTE: a count at the head of the JUnit file
number() { sed -nE "s/^[[:space:]]*$1=\"([0-9]+)\".*/\1/p" "$results" | head -n 1; }
total=$(number tests)
failed=$(number failures)
skipped=$(($(number skipped) + $(number disabled)))
line="$((total - failed - skipped)) passed, $failed failed"
[[ $skipped -eq 0 ]] || line+=", $skipped skipped"
printf '%s\n' "$line"
exit "$status"
