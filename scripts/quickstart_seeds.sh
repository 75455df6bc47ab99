#!/usr/bin/env bash
# The quickstart in full size with several seeds, one after the other; about 20 minutes a seed on two cores.
#
#   bash scripts/quickstart_seeds.sh [FOLDER] [SEED...]      by default runs/quickstart_seeds and seeds 0 1 2
#
# A seed whose summary is there already is not run again, and one that was cut off goes on. The last line is JSON: before
# and after by seed, and which claims hold in every seed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${1:-runs/quickstart_seeds}
seeds=("${@:2}")
[ "${#seeds[@]}" -gt 0 ] || seeds=(0 1 2)

unset PYTHONDONTWRITEBYTECODE  # see quickstart.sh
export PACORE_LOCK=${PACORE_LOCK:-cpu}
bash scripts/setup_env.sh
venv=$(realpath -m "${PACORE_VENV:-.venv}")
export PATH="$venv/bin:$PATH"

for seed in "${seeds[@]}"; do
  out="$folder/seed_$seed"
  if [ -e "$out/summary.json" ]; then
    echo "seed $seed: $out/summary.json is there, not run again"
    continue
  fi
  "$venv/bin/pacore-rl" quickstart --out "$out" --seed "$seed" --preset full
done
exec "$venv/bin/python" scripts/summarize_seeds.py "$folder" "${seeds[@]}"
