# shellcheck shell=bash
# Shared by the scripts that install a copy of the checkout and look at what comes of it; sourced after
# common.sh, never run. They set `folder`, where they work, and read `code`: 1 once a check failed.
code=0

# copy_checkout DIR: the files that git knows, and those it does not ignore
copy_checkout() {
  mkdir -p -- "$1"
  (cd -- "$archon_root" && git ls-files -z --cached --others --exclude-standard |
    xargs -0 cp --parents -t "$1" --) || fail 2 "cannot copy the files of $archon_root" \
    "git has to name them, and did not" "run this in a git checkout"
}

# check WHAT COMMAND...: a failure shows its output, and does not stop the others
check() {
  local what=$1
  shift
  if "$@" >"$folder/check.log" 2>&1; then
    say "passed: $what"
  else
    say "FAILED: $what"
    cat -- "$folder/check.log" >&2
    code=1
  fi
}
