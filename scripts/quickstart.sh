#!/usr/bin/env bash
# From nothing to a trained model on one machine without a GPU: environment, problems, training, table and pictures.
# Arguments go on to `pacore-rl quickstart`; --help lists them. It needs no GPU, and by default takes none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Container images set this; every one of a run's processes would then compile vLLM and torch anew at its start.
unset PYTHONDONTWRITEBYTECODE
export PACORE_LOCK=${PACORE_LOCK:-cpu}
bash scripts/setup_env.sh
venv=$(realpath -m "${PACORE_VENV:-.venv}")
# DeepSpeed looks for ninja on the PATH.
export PATH="$venv/bin:$PATH"
exec "$venv/bin/pacore-rl" quickstart "$@"
