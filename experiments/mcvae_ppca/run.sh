#!/usr/bin/env bash
# PCA of MNIST trained by IWAE, then bounds and gradients by L- and A-MCVAE against the exact ones;
# then the table and the box plots. With configs/mcvae_ppca/additional/reduced.yaml it takes minutes.
#   METHODS="l_5 a_5"   which files of configs/mcvae_ppca/additional
# Other variables and arguments: see experiments/sweep.sh.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"
read -ra methods <<<"${METHODS:-elbo l_1_reverse l_2_reverse l_5 l_10 a_5 a_10 a_5_of_10}"

for seed in "${seeds[@]}"; do
    model=(configs/mcvae_ppca/base.yaml configs/mcvae_ppca/additional/iwae.yaml "${more[@]}"
        "seed=$seed")
    run_now "${model[@]}" || continue # nothing to look at
    trained=$(run_id "${model[@]}")
    for method in "${methods[@]}"; do
        run configs/mcvae_ppca/base.yaml "configs/mcvae_ppca/additional/$method.yaml" \
            "${more[@]}" "initialise.run=$trained" "seed=$seed"
    done
done
finish
"$PYTHON" -m experiments.mcvae_ppca.figure --seeds "${seeds[0]}" \
    --methods "${methods[@]}" -additional_configs "${more[@]}" -set "${extra[@]}"
