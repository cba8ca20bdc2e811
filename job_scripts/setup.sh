#!/usr/bin/env bash
# Installs what Archon needs and builds it: build/PRESET/bin/archon. Runs nothing.
#
#   job_scripts/setup.sh [--preset release|debug|sanitize] [--cuda] [--tests] [--prefix DIR]
#                         [--no-install]
#
#   --preset NAME   which of CMakePresets.json to build [release]
#   --cuda          the preset cuda: for GPUs too, with the CUDA libraries that LibTorch needs
#                   (3 GB of wheels, unless LIBTORCH_ROOT names a LibTorch that has them)
#   --tests         build the tests and benchmarks too, with what builds the site of the documentation
#   --prefix DIR    install Archon there: DIR/bin/archon, which needs neither sources nor build
#   --no-install    install nothing that Archon needs; say what is absent and stop
#   --help          this text
#
# On Debian with root it installs the missing Debian packages. Elsewhere it takes what modules,
# Spack or the system provide, and names what is absent (exit 2). LibTorch and the Python
# helpers go into a private virtual environment. With nothing missing it takes a second. Where that
# lies in the repository, --prefix copies LibTorch to DIR; elsewhere it is used where it is.
#
# Environment:
#   ARCHON_VENV     the virtual environment [.venv in the repository]
#   LIBTORCH_ROOT   a LibTorch of your own (the folder with include/ and lib/); no wheel then
#   PYTHON          the Python (3.11 or newer) to make the virtual environment with
#   CMAKE_BUILD_PARALLEL_LEVEL   compilers at a time [cores, at most one per 2 GiB of memory]
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

debian_packages=(
  ccache cmake g++ ninja-build python3-venv
  libopenmpi-dev openmpi-bin libhdf5-openmpi-dev hdf5-tools
  libboost-program-options-dev libboost-test-dev libfmt-dev libspdlog-dev
  nlohmann-json3-dev libxxhash-dev
)
temporary=
trap '[[ -z $temporary ]] || rm -rf -- "$temporary"' EXIT

parse_options() {
  preset=release tests=OFF prefix='' install=yes
  while [[ $# -gt 0 ]]; do
    case $1 in
      --preset) need_value "$1" $#; preset=$2; shift 2 ;;
      --cuda) preset=cuda; shift ;;
      --tests) tests=ON; shift ;;
      --prefix) need_value "$1" $#; prefix=$(realpath -m -- "$2"); shift 2 ;;
      --no-install) install=no; shift ;;
      -h | --help) print_help "${BASH_SOURCE[0]}"; exit 0 ;;
      *) fail 2 "unknown option '$1'" "see job_scripts/setup.sh --help" ;;
    esac
  done
  case $preset in
    release | debug | sanitize | cuda) ;;
    *) fail 2 "unknown preset '$preset'" "choose release, debug, sanitize or cuda" ;;
  esac
}

# --- the system's part: compiler, MPI, HDF5, libraries ---------------------------------------

missing_packages() {
  local installed package
  installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${debian_packages[@]}" \
    2>/dev/null || true)
  for package in "${debian_packages[@]}"; do
    grep -qxF "$package installed" <<<"$installed" || printf '%s\n' "$package"
  done
}

# Prints what neither PATH nor CMake can find, one thing a line.
absent_parts() {
  local tool tools=(cmake ninja mpiexec "${CXX:-c++}")
  [[ $tests == OFF ]] || tools+=(doxygen)
  for tool in "${tools[@]}"; do
    command -v "$tool" >/dev/null || printf 'the program %s\n' "$tool"
  done
  if ! command -v cmake >/dev/null || ! command -v ninja >/dev/null; then
    return
  fi
  temporary=$(mktemp -d)
  if cmake -S "$archon_root/job_scripts/probe" -B "$temporary" -G Ninja \
    -DARCHON_PROBE_TESTS=$tests >"$temporary/log" 2>&1; then
    cat "$temporary/absent.txt"
  else
    printf 'a working C and C++ compiler and CMake 3.25; CMake says:\n'
    tail -n 20 "$temporary/log"
  fi
}

provide_system() {
  local missing=() absent hint
  if command -v dpkg-query >/dev/null; then
    mapfile -t missing < <(missing_packages)
    [[ ${#missing[@]} -gt 0 ]] || return 0
    if [[ $install == yes && $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
      install_packages "${missing[@]}"
      return
    fi
    hint="as root: apt-get install ${missing[*]}"
  else
    hint="load modules, or a Spack environment, that provide them"
  fi
  # A build folder that was configured once has proved that everything is there.
  [[ ! -f $build/build.ninja ]] || return 0
  absent=$(absent_parts)
  [[ -z $absent ]] || fail 2 "parts that Archon is built from are absent:" \
    "$(sed '2,$s/^/       /' <<<"$absent")" "this script installs them only as root on Debian" "$hint"
}

# --- LibTorch and the Python helpers ---------------------------------------------------------

usable_python() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 /usr/bin/python3 \
    python3.11 python3.12 python3.13; do
    if usable_python "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail 2 "no usable Python" "the virtual environment needs Python 3.11 or newer with venv" \
    "install python3-venv, load a Python module, or set PYTHON"
}

pip_install() {
  "$archon_python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: "$@" \
    >&2 || fail 3 "pip could not install ($*)" \
    "the registry cannot be reached, or has no wheel for this Python and machine" \
    "see its messages above; run again when mended"
}

# provide_wheels NAME REQUIREMENTS PIP-OPTION...: once per content of the requirements file
provide_wheels() {
  local stamp=$archon_venv/.archon-$1 requirements=$2
  shift 2
  ! cmp -s -- "$requirements" "$stamp" || return 0
  [[ $install == yes ]] || fail 2 "the wheels of $requirements are not in $archon_venv" \
    "--no-install forbids to install them" "run job_scripts/setup.sh without it"
  say "installing the wheels of ${requirements#"$archon_root"/} into $archon_venv"
  pip_install -r "$requirements" "$@"
  cp -- "$requirements" "$stamp"
}

provide_python() {
  local python
  if ! "$archon_python" -c '' 2>/dev/null; then
    [[ $install == yes ]] || fail 2 "no virtual environment at $archon_venv" \
      "--no-install forbids to make one" "run job_scripts/setup.sh without it"
    python=$(find_python)
    say "making the virtual environment $archon_venv with $("$python" --version)"
    "$python" -m venv --clear -- "$archon_venv" || fail 3 "cannot make $archon_venv" \
      "see the message above" "set ARCHON_VENV to a folder that can be written"
  fi
  provide_wheels helpers "$archon_root/tools/requirements.txt"
  [[ $tests == OFF ]] || provide_wheels docs "$archon_root/tools/requirements-docs.txt"
  if [[ -z ${LIBTORCH_ROOT:-} ]]; then
    provide_wheels libtorch "$archon_root/tools/requirements-libtorch.txt" --no-deps --no-compile
    [[ $preset != cuda ]] ||
      provide_wheels cuda "$archon_root/tools/requirements-cuda.txt" --no-compile
    libtorch=$(echo "$archon_venv"/lib/python3*/site-packages/torch)
  else
    libtorch=$LIBTORCH_ROOT
  fi
  [[ -d $libtorch/include && -d $libtorch/lib ]] || fail 2 "no LibTorch at '$libtorch'" \
    "there is no include/ and lib/ in it" "correct or unset LIBTORCH_ROOT"
}

# --- build -----------------------------------------------------------------------------------

configure() {
  local stamp=$build/.setup wanted="tests=$tests venv=$archon_venv libtorch=$libtorch"
  if [[ -f $build/build.ninja && $(cat -- "$stamp" 2>/dev/null) == "$wanted" ]]; then
    return # Ninja itself runs CMake again when its files change
  fi
  say "configuring $build"
  (cd -- "$archon_root" && cmake --preset "$preset" -U 'LibTorch_*' -U ARCHON_PYTHON \
    "-DLIBTORCH_ROOT=$libtorch" "-DBUILD_TESTING=$tests" "-DARCHON_BENCHMARKS=$tests" >&2) ||
    fail 3 "CMake could not configure $build" "see its messages above" \
      "when something was replaced since, remove $build and run again"
  printf '%s\n' "$wanted" >"$stamp"
}

build() {
  local jobs
  jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(job_count)}
  say "building $build with $jobs jobs"
  cmake --build "$build" --parallel "$jobs" >&2 || fail 3 "the build failed" \
    "see the compiler's messages above" \
    "when it was killed for lack of memory, set CMAKE_BUILD_PARALLEL_LEVEL=1"
}

install_build() {
  say "installing into $prefix"
  cmake --install "$build" --prefix "$prefix" >/dev/null || fail 3 "'$prefix' could not be filled" \
    "see CMake's messages above" "choose a folder that can be written with --prefix DIR"
}

parse_options "$@"
build=$archon_root/build/$preset
[[ $tests == OFF ]] || debian_packages+=(doxygen)
provide_system
provide_python
configure
build
[[ -z $prefix ]] || install_build
