#!/usr/bin/env bash
# Learned annealed chains and diffusion samplers on densities of known normaliser; then the table.
#   bash experiments/samplers_toy/run.sh [FILE.yaml ...]   configs/samplers_toy/short.yaml: minutes
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/samplers_toy/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
