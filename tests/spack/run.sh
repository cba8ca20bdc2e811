#!/usr/bin/env bash
# Installs Archon with Spack from this checkout, as docs/spack.md shows, and tests what was installed.
#
#   tests/spack/run.sh --spack DIR [--packages DIR] [--sources DIR] [--folder DIR] [--jobs N] [--dry]
#
#   --spack DIR      a checkout of Spack 1.1 or newer [SPACK_ROOT]
#   --packages DIR   a checkout of spack-packages, whose builtin recipes are used [Spack's own, which
#                    it downloads]
#   --sources DIR    a mirror made by 'spack mirror create' with the source of compiler-wrapper, which
#                    Spack installs itself [download it]
#   --folder DIR     work in DIR, and leave everything there [a temporary folder, removed at the end]
#   --jobs N         compilers at a time [1 for every 2 GiB of memory, at most one per core]
#   --dry            stop before the installation: the recipe's audit, and what would be built
#   --help           this text
#
# Everything that Archon depends on has to be on this machine (job_scripts/setup.sh), with LibTorch in
# the virtual environment of ARCHON_VENV [.venv in the repository]. CMake finds it as a build does,
# and Spack takes it as externals; only Archon is built, a copy of the checkout's files. Without a
# network Spack needs --packages, --sources, clingo in the Python that runs it (SPACK_PYTHON), and
# patchelf. Nothing is written outside the folder but what ccache keeps, and no configuration of the
# user or the system is read.
#
# Exit code: 0 all passed, 1 a check failed, 2 wrong usage or something absent, 3 a step failed
source "$(dirname -- "${BASH_SOURCE[0]}")/../../job_scripts/common.sh"
source "$archon_root/tests/installed_checks.sh"

here=$archon_root/tests/spack

parse_options() {
  spack_root=${SPACK_ROOT:-} packages='' sources='' folder='' jobs='' dry=no
  while [[ $# -gt 0 ]]; do
    case $1 in
      --spack) need_value "$1" $#; spack_root=$2; shift 2 ;;
      --packages) need_value "$1" $#; packages=$(realpath -m -- "$2"); shift 2 ;;
      --sources) need_value "$1" $#; sources=$(realpath -m -- "$2"); shift 2 ;;
      --folder) need_value "$1" $#; folder=$(realpath -m -- "$2"); shift 2 ;;
      --jobs) need_value "$1" $#; jobs=$2; shift 2 ;;
      --dry) dry=yes; shift ;;
      -h | --help) print_help "${BASH_SOURCE[0]}"; exit 0 ;;
      *) fail 2 "unknown option '$1'" "see tests/spack/run.sh --help" ;;
    esac
  done
  [[ -x $spack_root/bin/spack ]] || fail 2 "no Spack in '$spack_root'" \
    "there is no bin/spack in it" "name a checkout of Spack with --spack DIR, or set SPACK_ROOT"
  [[ -z $packages || -d $packages/repos/spack_repo/builtin ]] || fail 2 \
    "no recipes in '$packages'" "there is no repos/spack_repo/builtin in it" \
    "name a checkout of spack-packages with --packages DIR"
  [[ -z $sources || -d $sources/_source-cache ]] || fail 2 "no sources in '$sources'" \
    "there is no _source-cache in it" "name a mirror of Spack with --sources DIR"
  libtorch=$(echo "$archon_venv"/lib/python3*/site-packages/torch)
  [[ -d $libtorch ]] || fail 2 "no LibTorch in '$archon_venv'" \
    "there is no lib/python3*/site-packages/torch in it" \
    "run job_scripts/setup.sh, or set ARCHON_VENV"
  jobs=${jobs:-$(job_count)}
}

make_folder() {
  if [[ -z $folder ]]; then
    folder=$(mktemp -d /tmp/archon-spack.XXXXXX)
    trap 'rm -rf -- "$folder"' EXIT
  fi
  rm -rf -- "$folder"/{source,config,externals,store,other_store,mirror,tests}
  mkdir -p -- "$folder/config"
  copy_checkout "$folder/source"
}

# A configuration of its own: Spack reads and writes below the folder alone.
configure_spack() {
  local config=$folder/config
  export SPACK_USER_CONFIG_PATH=$config SPACK_SYSTEM_CONFIG_PATH=$folder/none \
    SPACK_USER_CACHE_PATH=$folder/cache PYTHONPYCACHEPREFIX=$folder/pycache
  unset SPACK_ENV SPACK_DISABLE_LOCAL_CONFIG
  cat >"$config/config.yaml" <<YAML
config:
  install_tree:
    root: $folder/store
  build_stage: [$folder/stage]
  test_stage: $folder/tests
  source_cache: $folder/cache/sources
  misc_cache: $folder/cache/misc
  build_jobs: $jobs
  ccache: $(command -v ccache >/dev/null && echo true || echo false)
YAML
  # Nothing but what is found here, and nothing that an earlier run left.
  printf 'concretizer:\n  reuse: false\n' >"$config/concretizer.yaml"
  [[ -z $packages ]] || printf 'repos:\n  builtin: %s\n' "$packages/repos/spack_repo/builtin" \
    >"$config/repos.yaml"
  [[ -z $sources ]] || printf 'mirrors:\n  sources: file://%s\n' "$sources" >"$config/mirrors.yaml"
  cmake -G Ninja -S "$here/externals" -B "$folder/externals" "-DLIBTORCH_ROOT=$libtorch" \
    "-DPACKAGES_YAML=$config/packages.yaml" >"$folder/externals.log" 2>&1 || fail 2 \
    "not everything that Archon depends on could be found" \
    "$(grep -A9 'CMake Error' "$folder/externals.log" || cat -- "$folder/externals.log")" \
    "install it (job_scripts/setup.sh), or load its modules"
}

# spack COMMAND...: in the environment of the copied checkout's spack.yaml
spack() { "$spack_root/bin/spack" -e "$folder/source" "$@"; }
step() {
  say "spack $*"
  spack "$@" || fail 3 "spack $* failed" "see its messages above"
}

names_no_folder_of_the_build() {
  # .spack is Spack's own record of the build.
  ! grep -rlF --exclude-dir=.spack -e "$folder/source" -e "$folder/stage" -- "$1"
}

in_loaded_environment() (
  set +u
  source "$folder/load.sh"
  "$@"
)

# What was installed, without the sources and the build.
check_installation() {
  local prefix
  prefix=$(spack location -i archon)
  spack load --sh archon >"$folder/load.sh"
  mv -- "$folder/source" "$folder/source.gone"
  rm -rf -- "$folder/stage"
  check "archon doctor, without sources and build" "$prefix/bin/archon" doctor
  check "spack load: archon in PATH" in_loaded_environment bash -c \
    "[[ \$(command -v archon) == '$folder'/* ]] && archon --version"
  # shellcheck disable=SC2016  # the loaded environment sets it
  check "spack load: job scripts in ARCHON_ROOT" in_loaded_environment bash -c \
    'test -f "$ARCHON_ROOT/job_scripts/train.sbatch"'
  check "no file names the sources or the build" names_no_folder_of_the_build "$prefix"
  mv -- "$folder/source.gone" "$folder/source"
}

# A build cache carries it to another place.
check_build_cache() {
  local prefix
  step buildcache push --unsigned --only package "$folder/mirror" archon
  step mirror add --unsigned --scope user local "file://$folder/mirror"
  "$spack_root/bin/spack" -e "$folder/source" -c "config:install_tree:root:$folder/other_store" \
    install --no-check-signature --use-buildcache package:only,dependencies:auto ||
    fail 3 "the build cache could not be installed" "see Spack's messages above"
  prefix=$(echo "$folder"/other_store/*/archon-*)
  check "archon doctor, from a build cache in another place" "$prefix/bin/archon" doctor
  check "it does not name the place it was built for" \
    bash -c "! grep -rlF --exclude-dir=.spack -e '$folder/store' -- '$prefix'"
}

parse_options "$@"
make_folder
configure_spack
say "Spack $("$spack_root/bin/spack" --version), folder $folder; externals:"
grep -- '- spec: [a-z0-9-]*@' "$folder/config/packages.yaml" >&2
step audit configs
step audit packages archon
step concretize --force
[[ $dry == no ]] || exit 0

step install --fail-fast
check "spack test run archon" spack test run --alias archon archon
step test results -l archon
check_installation
check_build_cache
[[ $code -eq 0 ]] || fail 1 "some checks failed" "they are named above"
say "everything passed"
