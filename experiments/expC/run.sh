#!/usr/bin/env bash
# With and without entropy annealing, FFG and q_AF.
# Variables and arguments: see experiments/sweep.sh.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"

for data in ${DATA:-binarised_mnist}; do
    for seed in "${seeds[@]}"; do
        for posterior in gaussian aux_real_nvp; do
            run configs/expC/base.yaml "configs/expA/additional/$data.yaml" "${more[@]}" \
                "configs/posterior/$posterior.yaml" "seed=$seed"
            run configs/expC/base.yaml "configs/expA/additional/$data.yaml" "${more[@]}" \
                configs/expC/additional/no_annealing.yaml "configs/posterior/$posterior.yaml" \
                "seed=$seed"
        done
    done
done
finish
"$PYTHON" plot_from_db.py gaps -experiment expC
