#!/usr/bin/env bash
# Ring-shaped posteriors by VAE, IWAE, RealNVP, L- and A-MCVAE; then the table and the figure. With
# configs/mcvae_toy_posteriors/additional/reduced.yaml it takes minutes.
#   bash experiments/mcvae_toy_posteriors/run.sh [FILE.yaml ...]   further files
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/mcvae_toy_posteriors/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
"${PYTHON:-python}" -m experiments.mcvae_toy_posteriors.figure --seeds "${seeds[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
