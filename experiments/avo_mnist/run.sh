#!/usr/bin/env bash
# Amortised inference: VAE, Householder, ccIAF, IAF, HVI by ELBO and by AVO; then the table.
# Variables and arguments: see experiments/sweep.sh; DATA may name mnist, fashion_mnist, omniglot, celeba.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"

for data in ${DATA:-mnist}; do
    for seed in "${seeds[@]}"; do
        for posterior in configs/posterior/{gaussian,householder,cc_linear_iaf,iaf}.yaml \
            configs/avo_mnist/additional/{hvi,hvi_avo}.yaml; do
            run configs/avo_mnist/base.yaml "configs/avo_mnist/additional/$data.yaml" \
                "$posterior" "${more[@]}" "seed=$seed"
        done
    done
done
finish
"$PYTHON" plot_from_db.py table -experiment avo_mnist
