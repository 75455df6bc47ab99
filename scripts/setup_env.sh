#!/usr/bin/env bash
# Make or complete the virtual environment of this checkout from the exact locks in scripts/locks/.
#
#   bash scripts/setup_env.sh          what training needs
#   bash scripts/setup_env.sh dev      and the tools of scripts/test.sh
#
# Safe to repeat: a finished environment is recognised in a moment, an interrupted installation is taken up again.
# The stamp that says "finished" is written last, and holds the hash of everything the environment was made from.
#
#   PYTHON               the Python to use (3.11 or later)
#   PACORE_LOCK          cpu or gpu; by default gpu where nvidia-smi finds a GPU
#   PACORE_VENV          the environment's folder, by default .venv
#   PACORE_MIN_FREE_GIB  free disk asked for, by default 10 (CPU) or 30 (GPU)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
locks=$root/scripts/locks
venv=$(realpath -m "${PACORE_VENV:-$root/.venv}")
log=$venv/pacore-install.log
need_dev=${1:-}

# The import check leaves the bytecode of the stack behind, for whoever starts processes where none may be written.
unset PYTHONDONTWRITEBYTECODE
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_REQUIRE_VIRTUALENV=1 PYTHONNOUSERSITE=1

# shellcheck source=scripts/setup_checks.sh
source "$root/scripts/setup_checks.sh"

choose_lock() {
  local lock=${PACORE_LOCK:-}
  if [ -z "$lock" ]; then
    if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then lock=gpu; else lock=cpu; fi
  fi
  case $lock in
    cpu | gpu) echo "$lock" ;;
    *) fail "PACORE_LOCK is '$lock', but must be cpu or gpu." "Unset it to let the machine decide." ;;
  esac
}

# What the environment is made from: if any of it changes, the stamp no longer fits.
fingerprint() { # fingerprint LOCK_NAME
  { echo "$kind $venv"; cat "$locks/$1.txt" "$root/setup.py"; } | sha256sum | cut -d' ' -f1
}

stamped() { # stamped LOCK_NAME
  [ "$(cat "$venv/.pacore/$1" 2>/dev/null)" = "$(fingerprint "$1")" ]
}

write_stamp() { # write_stamp LOCK_NAME
  fingerprint "$1" >"$venv/.pacore/$1.new"
  mv "$venv/.pacore/$1.new" "$venv/.pacore/$1"
}

is_ready() {
  [ -x "$venv/bin/python" ] && stamped "$kind" && { [ "$need_dev" != dev ] || stamped dev; }
}

say() { printf '[set-up %4ss] %s\n' "$((SECONDS - began))" "$*"; }

progress() { # what pip is at, from the log of the current phase
  local output in_place fetched
  output=$(last_phase "$log")
  fetched=$(grep -cE '^(Collecting|Processing|Requirement already)' <<<"$output" || true)
  if grep -q '^Installing collected packages' <<<"$output"; then
    in_place=$(find "$venv"/lib/python3*/site-packages -maxdepth 1 -name '*.dist-info' | wc -l)
    echo "installing: $in_place packages in place"
  elif [ "$fetched" -gt 0 ]; then
    echo "fetching: $fetched packages so far"
  else
    echo "still at it"
  fi
}

# Run a command with its output in the log and a sign of life every 15 seconds; explain a failure.
phase() { # phase TITLE COMMAND...
  local title=$1 started=$SECONDS status=0 beat=0
  shift
  say "$title ..."
  printf '\n== %s: %s\n' "$title" "$*" >>"$log"
  "$@" >>"$log" 2>&1 &
  child=$!
  while kill -0 "$child" 2>/dev/null; do
    sleep 0.2
    beat=$((beat + 1))
    if [ $((beat % 75)) -eq 0 ]; then
      say "  $(progress)"
    fi
  done
  wait "$child" || status=$?
  child=
  [ "$status" -eq 0 ] || return "$status"
  printf '[set-up %4ss]   done in %ss\n' "$((SECONDS - began))" "$((SECONDS - started))"
}

must() { # must TITLE COMMAND... : a phase that ends the set-up when it fails
  phase "$@" || explain_install_failure "$1" "$log"
}

stop() {
  [ -z "${child:-}" ] || kill "$child" 2>/dev/null || true
  printf '\nInterrupted. Run the same command again: it continues where it stopped.\n' >&2
  exit 130
}

pin() { # pin PACKAGE LOCK_NAME : "PACKAGE==VERSION" as the lock has it
  grep "^$1==" "$locks/$2.txt" || fail "scripts/locks/$2.txt does not pin $1." "Restore the file: git checkout scripts/locks"
}

make_venv() {
  local made_for="$kind $venv"
  if [ -f "$venv/.pacore/made_for" ] && [ "$(cat "$venv/.pacore/made_for")" != "$made_for" ]; then
    say "the environment was made for '$(cat "$venv/.pacore/made_for")', now '$made_for' is wanted: making it anew"
    rm -rf "$venv"
  fi
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    say "new environment with $("$python" --version 2>&1) ($python)"
    "$python" -m venv --clear "$venv" >/dev/null 2>&1 || fail_no_venv "$python"
  fi
  # pip writes INSTALLER when all files of a package are there. Where it is missing pip was interrupted, and would
  # yet take the package for installed.
  find "$venv"/lib/python3*/site-packages -maxdepth 1 -name '*.dist-info' | while read -r info; do
    [ -f "$info/INSTALLER" ] || rm -r "$info"
  done
  mkdir -p "$venv/.pacore"
  printf '%s\n' "$made_for" >"$venv/.pacore/made_for"
  : >"$log"
}

# torch's CPU build has the local version +cpu. The default index does not carry it (its torch 2.13.0 is the CUDA
# build, which cannot be imported without 3 GB of CUDA libraries), so uv, which knows where PyTorch keeps it, goes second.
install_cpu_torch() {
  local torch uv
  torch=$(pin torch cpu)
  uv=$(pin uv dev)
  phase "$torch, CPU build" "${pip[@]}" "$torch+cpu" && return 0
  say "  not on the configured package index; asking PyTorch's own index through uv"
  must "$uv" "${pip[@]}" "$uv"
  phase "$torch, CPU build, from PyTorch's index" \
    "$venv/bin/uv" pip install --python "$venv/bin/python" --no-deps --torch-backend cpu "$torch" || fail_no_cpu_torch "$torch" "$log"
}

install_all() {
  local pip_pin setuptools_pin
  # Bytecode is made at first import: most of these files are never imported.
  pip=("$venv/bin/python" -m pip install --no-deps --no-compile --progress-bar off)
  pip_pin=$(pin pip "$kind")
  setuptools_pin=$(pin setuptools "$kind")
  must "$pip_pin, $setuptools_pin" "${pip[@]}" "$pip_pin" "$setuptools_pin"
  if ! stamped "$kind"; then
    rm -f "$venv/.pacore/$kind"
    if [ "$kind" = cpu ]; then install_cpu_torch; fi
    # DeepSpeed is source only: it is built with the setuptools and the torch that are in the environment by now.
    must "$(grep -c == "$locks/$kind.txt") packages of scripts/locks/$kind.txt (minutes)" \
      "${pip[@]}" --no-build-isolation --only-binary :all: --no-binary deepspeed -r "$locks/$kind.txt"
    must "pacore-rl, in place" "${pip[@]}" --no-build-isolation -e "$root"
    must "does the stack import" "$venv/bin/python" -c "import torch, vllm, ray, deepspeed, transformers, datasets"
    write_stamp "$kind"
  fi
  if [ "$need_dev" = dev ] && ! stamped dev; then
    must "tools of scripts/locks/dev.txt" "${pip[@]}" --only-binary :all: -r "$locks/dev.txt"
    write_stamp dev
  fi
}

case $need_dev in
  "" | dev) ;;
  *) fail "setup_env.sh was given '$need_dev', but takes nothing or 'dev'." "bash scripts/setup_env.sh dev" ;;
esac

began=$SECONDS
child=
kind=$(choose_lock)
if is_ready; then exit 0; fi
trap stop INT TERM

# Two set-ups of one checkout at a time would mix their files.
exec 9>"$venv.lock"
if ! flock -n 9; then
  say "another set-up of this checkout is running; waiting for it (at most 30 minutes)"
  flock -w 1800 9 || fail "Another set-up still holds $venv.lock after 30 minutes." "See what it does (pgrep -af setup_env), end it, and run again."
  if is_ready; then exit 0; fi
fi

check_platform "$kind"
python=$(find_python)
check_disk "$kind" "$root"
check_compiler "$python"
make_venv
install_all
say "ready: $venv ($kind lock)"
