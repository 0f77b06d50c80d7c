#!/usr/bin/env bash
# Ring-shaped posteriors by VAE, IWAE, RealNVP, L- and A-MCVAE; then the table and the figure. With
# configs/mcvae_toy_posteriors/additional/reduced.yaml it takes minutes.
# Variables and arguments: see experiments/sweep.sh.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"

for seed in "${seeds[@]}"; do
    for method in vae iwae rnvp l_mcvae a_mcvae; do
        run configs/mcvae_toy_posteriors/base.yaml \
            "configs/mcvae_toy_posteriors/additional/$method.yaml" "${more[@]}" "seed=$seed"
    done
done
finish
"$PYTHON" -m experiments.mcvae_toy_posteriors.figure --seeds "${seeds[@]}" \
    -additional_configs "${more[@]}" -set "${extra[@]}"
