#!/usr/bin/env bash
# Six toy energies, HVI and IAF by ELBO and by AVO, and AIS; then the figure and the tables.
#   bash experiments/avo_toy/run.sh [FILE.yaml ...]   further files
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/avo_toy/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
"${PYTHON:-python}" -m experiments.avo_toy.figure --seeds "${seeds[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
