#!/usr/bin/env bash
# One latent on a stretched circle: six ways to train, four seeds; then the table and the figure of
# trajectories on the plane of means.
#   bash experiments/collapse_toy/run.sh [FILE.yaml ...]   further files
#   METHODS="elbo hvi_avo"   which files of configs/collapse_toy/additional
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra methods <<<"${METHODS:-elbo kl_warmup encoder_steps iwae hvi_elbo hvi_avo}"
read -ra seeds <<<"${SEEDS:-0 1 2 3}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/collapse_toy/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    --vary method "${methods[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
"${PYTHON:-python}" -m experiments.collapse_toy.figure --methods "${methods[@]}" \
    --seeds "${seeds[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
