#!/usr/bin/env bash
# The final bound of VAE, HVI and HVI-AVO after a KL annealing of several lengths; then the figure.
#   bash experiments/avo_beta_annealing/run.sh [FILE.yaml ...]   further files
#   DATA=mnist   the data set: digits (default) or mnist
#   LENGTHS="0 50 200"   epochs of annealing: 0 (none), 20, 50, 100, 200 or 300
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra lengths <<<"${LENGTHS:-0 20 100 300}"
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/avo_beta_annealing/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    --vary data "${DATA:-digits}" --vary annealing "${lengths[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
