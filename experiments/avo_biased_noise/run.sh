#!/usr/bin/env bash
# What noise is learned with an FFG, HVI by ELBO and HVI by AVO; then the figure and the table.
#   bash experiments/avo_biased_noise/run.sh [FILE.yaml ...]   further files
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/avo_biased_noise/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
"${PYTHON:-python}" -m experiments.avo_biased_noise.figure --seeds "${seeds[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
