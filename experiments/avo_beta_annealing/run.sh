#!/usr/bin/env bash
# The final bound of VAE, HVI and HVI-AVO after a KL annealing of several lengths; then the figure
# and the table.
#   DATA=mnist                 the data set: digits (default) or mnist
#   LENGTHS="0 20 200"         epochs of annealing; 0: none
# Other variables and arguments: see experiments/sweep.sh.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"
read -ra lengths <<<"${LENGTHS:-0 20 100 300}"
data=configs/avo_beta_annealing/additional/${DATA:-digits}.yaml

for seed in "${seeds[@]}"; do
    for length in "${lengths[@]}"; do
        warmup="loss.warmup=null"
        ((length == 0)) || warmup="loss.warmup.epochs=$length"
        for method in vae hvi hvi_avo; do
            run configs/avo_beta_annealing/base.yaml "$data" \
                "configs/avo_beta_annealing/additional/$method.yaml" "${more[@]}" \
                "$warmup" "seed=$seed"
        done
    done
done
finish
"$PYTHON" -m experiments.avo_beta_annealing.figure --seeds "${seeds[@]}" \
    --lengths "${lengths[@]}" -additional_configs "$data" "${more[@]}" -set "${extra[@]}"
