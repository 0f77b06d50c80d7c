#!/usr/bin/env bash
# VAE, IWAE, L- and A-MCVAE and RealNVP on images, measured at several epochs; then the table beside
# the published one, and the figure.
#   DATA="mnist cifar10"   which data sets: mnist, cifar10, omniglot, fashion_mnist, celeba
#   METHODS="vae l_5"      which files of configs/mcvae_images/additional
#   EPOCHS="10 30"         which epochs are measured
# Other variables and arguments: see experiments/sweep.sh.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"
read -ra methods <<<"${METHODS:-vae iwae_10 iwae_50 l_5 l_10 a_3 a_5 rnvp}"
read -ra epochs <<<"${EPOCHS:-10 30 100}"
kept="runtime.keep_epochs=[$(IFS=,; echo "${epochs[*]}")]"

for data in ${DATA:-mnist}; do
    for seed in "${seeds[@]}"; do
        for method in "${methods[@]}"; do
            model=(configs/mcvae_images/base.yaml "configs/mcvae_images/additional/$data.yaml"
                "configs/mcvae_images/additional/$method.yaml" "${more[@]}" "seed=$seed" "$kept")
            run_now "${model[@]}" || continue # nothing to measure
            trained=$(run_id "${model[@]}")
            for epoch in "${epochs[@]}"; do
                run "${model[@]}" configs/mcvae_images/additional/measure.yaml \
                    "initialise.run=$trained" "initialise.weights=$epoch"
            done
        done
    done
done
finish
for data in ${DATA:-mnist}; do
    "$PYTHON" -m experiments.mcvae_images.figure --data "$data" --methods "${methods[@]}" \
        --epochs "${epochs[@]}" --seeds "${seeds[@]}" \
        -additional_configs "${more[@]}" -set "${extra[@]}"
done
