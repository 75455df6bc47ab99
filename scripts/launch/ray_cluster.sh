#!/usr/bin/env bash
# A Ray cluster by hand: one head, any number of workers, each started on its own machine.
#
#   head machine:     bash scripts/launch/ray_cluster.sh head
#   other machines:   bash scripts/launch/ray_cluster.sh worker HEAD_ADDRESS:6379
#   head machine:     pacore-rl doctor --address HEAD_ADDRESS:6379
#                     pacore-rl train recipes/pacore_8b/stage1.yaml cluster.address=HEAD_ADDRESS:6379
#   every machine:    bash scripts/launch/ray_cluster.sh stop
#
# All machines need the same checkout, environment and model files at the same paths, and the same token: Ray refuses who
# does not have it. The head makes one if there is none; docs/clusters.md says how to take it to the others.
#
#   PACORE_RAY_PORT      port of the head; by default 6379
#   PACORE_RAY_ADDRESS   address of this machine that the others reach; by default the one that Ray finds
#   RAY_AUTH_TOKEN_PATH  file of the token; by default ~/.ray/auth_token
set -euo pipefail

venv=${PACORE_VENV:-.venv}
if [ -x "$venv/bin/ray" ]; then
  PATH="$(realpath "$venv")/bin:$PATH"
fi
port=${PACORE_RAY_PORT:-6379}
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

fail() {
  printf '%s\n' "$@" >&2
  exit 2
}

own_address() { # --node-ip-address where it is given
  if [ -n "${PACORE_RAY_ADDRESS:-}" ]; then
    printf '%s' "--node-ip-address=$PACORE_RAY_ADDRESS"
  fi
}

start() { # start ARGUMENT...
  local address
  address=$(own_address)
  ray start ${address:+"$address"} --disable-usage-stats "$@"
}

command -v ray >/dev/null || fail "There is no ray on the PATH; run scripts/setup_env.sh here first, or name its folder in PACORE_VENV."

case "${1:-}" in
  head)
    if [ -z "${RAY_AUTH_TOKEN:-}" ] && [ ! -s "$token" ]; then
      (umask 077 && mkdir -p "$(dirname "$token")" \
        && python3 -c 'import secrets; print(secrets.token_hex(32), end="")' >"$token")
      echo "Made a token: $token"
    fi
    start --head --port="$port" --dashboard-host=127.0.0.1
    ;;
  worker)
    [ -n "${2:-}" ] || fail "The head's address was not given; it must be HOST:PORT: bash $0 worker HEAD_ADDRESS:$port"
    if [ -z "${RAY_AUTH_TOKEN:-}" ] && [ ! -s "$token" ]; then
      fail "There is no token in $token, so the head would refuse this machine." \
        "Copy the head's file here (mode 600), or set RAY_AUTH_TOKEN_PATH to where it is. See docs/clusters.md."
    fi
    start --address="$2"
    ;;
  stop)
    ray stop --grace-period 30
    ;;
  *)
    fail "'${1:-}' was given; it must be head, worker HEAD_ADDRESS:PORT, or stop."
    ;;
esac
