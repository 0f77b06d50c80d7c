#!/usr/bin/env bash
# Recovery of two parameters by VAE, IWAE, RealNVP, L- and A-MCVAE in every dimension; then the table
# and the figure. With configs/mcvae_toy_recovery/additional/reduced.yaml and DIMS=2 it takes
# minutes.
#   bash experiments/mcvae_toy_recovery/run.sh [FILE.yaml ...]   further files
#   DIMS="2 5 10"   which dimensions
#   METHODS="vae l_mcvae"   which files of configs/mcvae_toy_recovery/additional
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra dims <<<"${DIMS:-2 5 10 20 50 100 150 200 300}"
read -ra methods <<<"${METHODS:-vae iwae rnvp l_mcvae l_mcvae_skip a_mcvae}"
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/mcvae_toy_recovery/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    --vary data.latent_dim "${dims[@]}" --vary model.latent_dim "${dims[@]}" \
    --vary method "${methods[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
"${PYTHON:-python}" -m experiments.mcvae_toy_recovery.figure --seeds "${seeds[@]}" \
    --dims "${dims[@]}" --methods "${methods[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
