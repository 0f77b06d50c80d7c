#!/usr/bin/env bash
# PCA of MNIST trained by IWAE, then bounds and gradients by L- and A-MCVAE against the exact ones;
# then the table and the box plots, of the first seed. With
# configs/mcvae_ppca/additional/reduced.yaml it takes minutes.
#   bash experiments/mcvae_ppca/run.sh [FILE.yaml ...]   further files
#   METHODS="l_5 a_5"   which files of configs/mcvae_ppca/additional
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra methods <<<"${METHODS:-elbo l_1_reverse l_2_reverse l_5 l_10 a_5 a_10 a_5_of_10}"
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/mcvae_ppca/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    --vary method "${methods[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
"${PYTHON:-python}" -m experiments.mcvae_ppca.figure --seeds "${seeds[0]}" \
    --methods "${methods[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
