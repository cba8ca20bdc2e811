#!/usr/bin/env bash
# Installs Archon on a clean Debian 12, deletes the sources and the build, and works with what is left:
# trains, resumes, and builds the example plugin from the prefix alone.
#
#   tests/install/debian.sh [--folder DIR] [--mirror URL] [--ccache DIR] [--keep]
#
#   --folder DIR   where the clean machine lies, 8 GB [a temporary folder]
#   --mirror URL   of Debian [that of debootstrap]
#   --ccache DIR   a folder of ccache's that the build may use [its own, so that all is compiled]
#   --keep         leave the clean machine there
#   --help         this text
#
# Needs root and debootstrap (on Debian it is installed). The clean machine is a folder that programs
# see as the whole file system (chroot), with Debian's smallest set of packages; job_scripts/setup.sh
# brings the rest, as for any newcomer. Half an hour on two cores, most of it the build.
#
# Exit code: 0 all passed, 1 a check failed, 2 wrong usage or something absent, 3 a step failed
source "$(dirname -- "${BASH_SOURCE[0]}")/../../job_scripts/common.sh"
source "$archon_root/tests/installed_checks.sh"

prefix=/opt/archon
user=researcher
case_name=q3_tiny  # of tests/golden

parse_options() {
  folder='' mirror='' ccache='' keep=no
  while [[ $# -gt 0 ]]; do
    case $1 in
      --folder) need_value "$1" $#; folder=$(realpath -m -- "$2"); shift 2 ;;
      --mirror) need_value "$1" $#; mirror=$2; shift 2 ;;
      --ccache) need_value "$1" $#; ccache=$(realpath -m -- "$2"); shift 2 ;;
      --keep) keep=yes; shift ;;
      -h | --help) print_help "${BASH_SOURCE[0]}"; exit 0 ;;
      *) fail 2 "unknown option '$1'" "see tests/install/debian.sh --help" ;;
    esac
  done
  [[ $EUID -eq 0 ]] || fail 2 "only root can set up another file system" "run it as root"
  [[ -z $ccache || -d $ccache ]] || fail 2 "no folder '$ccache'" "correct --ccache"
  command -v debootstrap >/dev/null || install_packages debootstrap
}

unmount() {
  local place
  for place in dev proc sys root/.cache/ccache; do
    # Lazily: what a program left there may still hold /dev/null.
    ! mountpoint -q -- "$machine/$place" || umount --recursive --lazy -- "$machine/$place"
  done
}

clean_up() {
  unmount
  # Never through what is still mounted.
  [[ $keep == yes ]] || rm -rf --one-file-system -- "$folder"
}

# What this machine knows of the network, the clean one has to know too.
share_network() {
  local file
  for file in /etc/resolv.conf /etc/hosts /etc/pip.conf; do
    [[ ! -f $file ]] || cp -L -- "$file" "$machine$file"
  done
  mkdir -p -- "$machine/etc/ssl/certs"
  [[ ! -f /etc/ssl/certs/ca-certificates.crt ]] ||
    cp -L /etc/ssl/certs/ca-certificates.crt "$machine/etc/ssl/certs/network.crt"
}

make_machine() {
  folder=${folder:-$(mktemp -d /tmp/archon-debian.XXXXXX)}
  machine=$folder/machine
  trap clean_up EXIT
  unmount
  rm -rf --one-file-system -- "$machine"
  mkdir -p -- "$machine"
  say "a clean Debian 12 in $machine"
  debootstrap --variant=minbase bookworm "$machine" ${mirror:+"$mirror"} >"$folder/debootstrap.log" 2>&1 ||
    fail 3 "debootstrap failed" "see $folder/debootstrap.log (with --keep)" "$(tail -n 3 "$folder/debootstrap.log")"
  mkdir -p -- "$machine/root/.cache/ccache"
  mount -t proc proc "$machine/proc"
  mount -t sysfs sysfs "$machine/sys"
  mount --rbind --make-rslave /dev "$machine/dev"
  [[ -z $ccache ]] || mount --bind -- "$ccache" "$machine/root/.cache/ccache"
  share_network
}

# inside USER COMMAND...: with nothing of this machine's environment but what names package registries
inside() {
  local who=$1 settings=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C) name
  shift
  for name in http_proxy https_proxy no_proxy "${!PIP_@}"; do
    [[ -z ${!name:-} || $name == PIP_FIND_LINKS ]] || settings+=("$name=${!name}")
  done
  [[ ! -f $machine/etc/ssl/certs/network.crt ]] || settings+=(PIP_CERT=/etc/ssl/certs/network.crt)
  chroot --userspec="$who" "$machine" /usr/bin/env -i "${settings[@]}" \
    "HOME=$(chroot "$machine" sh -c "echo ~$who")" OMPI_MCA_rmaps_base_oversubscribe=1 "$@"
}

# The checkout lies where it does here, for the sake of ccache.
install_archon() {
  say "job_scripts/setup.sh --prefix $prefix, there"
  copy_checkout "$machine$archon_root"
  inside root "$archon_root/job_scripts/setup.sh" --prefix "$prefix" ||
    fail 3 "the installation failed" "see its messages above"
}

# The inputs of the checks, which are a user's own files; then nothing is left but the prefix.
delete_sources() {
  inside root useradd --create-home "$user"
  mkdir -p -- "$machine/home/$user/case"
  cp -r -- "$archon_root/tests/golden/$case_name/." "$machine/home/$user/case"
  cp -r -- "$archon_root/tests/golden/llama_kv2_h8" "$machine/home/$user/llama"
  chown -R --reference="$machine/home/$user" -- "$machine/home/$user"
  rm -rf -- "${machine:?}$archon_root"
}

work() { inside "$user" bash -c "cd && PATH=$prefix/bin:\$PATH && export OMP_NUM_THREADS=1 && set -e; $1"; }

check_work() {
  local train="mpiexec -n 2 archon train --tp 2 --model case/model --data case/batch.h5 \
    --batch-sequences 2 --lr 1e-3 --save-every 2"
  local plugin="export ARCHON_PLUGIN_PATH=\$HOME/plugin/build;"
  local what="--only logprobs --only entropy --only logits --rtol 2e-5"
  check "archon doctor" work "archon doctor"
  check "archon train on two ranks" work "$train --steps 4 --output straight"
  check "a run that was stopped, resumed on two ranks" work \
    "$train --steps 2 --output stopped; $train --steps 4 --output stopped"
  check "the resumed run ends as the other one, to the bit" work \
    "archon diff straight/hf stopped/hf --rtol 0 --atol 0"
  check "archon forward on two ranks is what HuggingFace computes" work \
    "mpiexec -n 2 archon forward --cp 2 --model case/model --data case/batch.h5 \
      --what logprobs,entropy,logits --output forward.h5; archon diff case/golden.h5 forward.h5 $what"
  check "the example plugin builds from the prefix" work \
    "cp -r $prefix/share/archon/examples/llama_plugin plugin; \
     cmake -S plugin -B plugin/build -G Ninja -DCMAKE_PREFIX_PATH=$prefix; cmake --build plugin/build"
  check "its model trains" work "$plugin mpiexec -n 2 archon train --cp 2 --model llama/model \
    --data llama/batch.h5 --batch-sequences 2 --steps 2 --output llama_run"
  check "its model computes what HuggingFace computes" work "$plugin archon forward --model llama/model \
    --data llama/batch.h5 --what logprobs,entropy,logits --output llama.h5; \
    archon diff llama/golden.h5 llama.h5 $what"
  check "no file of the prefix names the sources or the build" work \
    "! grep -rlF -e '$archon_root/' -- $prefix"
}

parse_options "$@"
make_machine
install_archon
delete_sources
check_work
[[ $code -eq 0 ]] || fail 1 "some checks failed" "they are named above"
say "everything passed"
