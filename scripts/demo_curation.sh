#!/usr/bin/env bash
# Curation in miniature, on a CPU and offline: real maths files to a stage-1 set, with the quickstart's model as proposer
# of the synthetic part. Prints the funnel, writes the card. Arguments are settings: curation.arithmetic.num=50
#
# PACORE_DATA names the folder of the problem files (math_train/, math_eval/); by default ../shared/data.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

data=${PACORE_DATA:-../shared/data}
if [ ! -d "$data/math_train" ]; then
  echo "no math_train/ in $data; set PACORE_DATA to the folder of the problem files (see recipes/curation/demo.yaml)" >&2
  exit 2
fi
venv=$(realpath -m "${PACORE_VENV:-.venv}")
if [ ! -x "$venv/bin/pacore-rl" ]; then
  PACORE_LOCK=${PACORE_LOCK:-cpu} bash scripts/setup_env.sh
fi
export PACORE_DATA=$data HF_HUB_OFFLINE=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PATH="$venv/bin:$PATH"
recipe=recipes/curation/demo.yaml
started=$SECONDS

pacore() { "$venv/bin/python" -m pacore_rl "$@"; }
pacore curate problems "$recipe" "$@"
pacore curate pools "$recipe" --source chain_sums "$@"
pacore curate stage1 "$recipe" "$@"
pacore curate card "$recipe" "$@"
echo "The whole demonstration took $((SECONDS - started)) seconds."
