#!/usr/bin/env bash
# Recovery of two parameters by VAE, IWAE, RealNVP, L- and A-MCVAE in every dimension; then the table
# and the figure. With configs/mcvae_toy_recovery/additional/reduced.yaml and DIMS=2 it takes
# minutes.
#   DIMS="2 5 10"         which dimensions
#   METHODS="vae l_mcvae"   which files of configs/mcvae_toy_recovery/additional
# Other variables and arguments: see experiments/sweep.sh.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"
read -ra dims <<<"${DIMS:-2 5 10 20 50 100 150 200 300}"
read -ra methods <<<"${METHODS:-vae iwae rnvp l_mcvae l_mcvae_skip a_mcvae}"

for seed in "${seeds[@]}"; do
    for dim in "${dims[@]}"; do
        for method in "${methods[@]}"; do
            run configs/mcvae_toy_recovery/base.yaml \
                "configs/mcvae_toy_recovery/additional/$method.yaml" "${more[@]}" \
                "data.latent_dim=$dim" "model.latent_dim=$dim" "seed=$seed"
        done
    done
done
finish
"$PYTHON" -m experiments.mcvae_toy_recovery.figure --seeds "${seeds[@]}" --dims "${dims[@]}" \
    --methods "${methods[@]}" -additional_configs "${more[@]}" -set "${extra[@]}"
