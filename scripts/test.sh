#!/usr/bin/env bash
# Everything that must hold before a commit: environment, lint, format, types, tests, then a summary.
# All four run even where an earlier one fails. Arguments go on to pytest: bash scripts/test.sh tests/ppo -k gae
#
#   PACORE_TEST_LIMIT_SECONDS  pytest is interrupted after this long; by default 3600
#   PACORE_TEST_SLOW           1 runs the slow tests too (half an hour more), as a release does
#   PACORE_TEST_PROCESSES      test files that run side by side; by default 2 (much of a test is one process starting)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Container images set this; every one of a run's processes would then compile vLLM and torch anew at its start.
unset PYTHONDONTWRITEBYTECODE
export PACORE_LOCK=${PACORE_LOCK:-cpu}
bash scripts/setup_env.sh dev
venv=$(realpath -m "${PACORE_VENV:-.venv}")
# DeepSpeed looks for ninja on the PATH.
export PATH="$venv/bin:$PATH"
limit=${PACORE_TEST_LIMIT_SECONDS:-3600}
processes=${PACORE_TEST_PROCESSES:-2}
selection=()
[ "${PACORE_TEST_SLOW:-0}" = 1 ] || selection=(-m "not slow")

summary=()
failed=0

check() { # check NAME COMMAND... : run it, note how it ended
  local name=$1 started=$SECONDS status=0
  shift
  printf '\n--- %s\n' "$name"
  "$@" || status=$?
  if [ "$status" -eq 0 ]; then
    summary+=("ok       $name ($((SECONDS - started)) s)")
  else
    summary+=("FAILED   $name ($((SECONDS - started)) s, exit status $status)")
    failed=1
  fi
}

check "ruff check" "$venv/bin/python" -m ruff check
check "ruff format" "$venv/bin/python" -m ruff format --check
check "pyright" "$venv/bin/python" -m pyright --pythonpath "$venv/bin/python"
check "pytest" timeout --foreground --signal INT --kill-after 60 "$limit" "$venv/bin/python" -m pytest \
  -n "$processes" --dist loadfile --no-loadscope-reorder "${selection[@]}" "$@"

printf '\n'
printf '%s\n' "${summary[@]}"
if [ "$failed" -eq 0 ]; then
  echo "All checks passed."
else
  echo "At least one check failed; its output is above."
fi
exit "$failed"
