#!/usr/bin/env bash
# VAE, IWAE, L- and A-MCVAE and RealNVP on images, measured at several epochs; then the table beside
# the published one, and the figure.
#   bash experiments/mcvae_images/run.sh [FILE.yaml ...]   further files
#   DATA="mnist cifar10"   which data sets: mnist, cifar10, omniglot, fashion_mnist, celeba
#   METHODS="vae l_5"   which files of configs/mcvae_images/additional
#   EPOCHS="10 30"   which epochs are kept and measured
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra data <<<"${DATA:-mnist}"
read -ra methods <<<"${METHODS:-vae iwae_10 iwae_50 l_5 l_10 a_3 a_5 rnvp}"
read -ra epochs <<<"${EPOCHS:-10 30 100}"
kept=$(IFS=,; echo "${epochs[*]}")
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/mcvae_images/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    --vary data "${data[@]}" --vary method "${methods[@]}" \
    --vary initialise.weights "${epochs[@]}" \
    -additional_configs "$@" -set "runtime.keep_epochs=[$kept]" "${extra[@]}"
for name in "${data[@]}"; do
    "${PYTHON:-python}" -m experiments.mcvae_images.figure --data "$name" \
        --methods "${methods[@]}" --epochs "${epochs[@]}" --seeds "${seeds[@]}" \
        -additional_configs "$@" -set "${extra[@]}"
done
