#!/usr/bin/env bash
# Decoders with 0, 2 and 4 hidden layers.
# Variables and arguments: see experiments/sweep.sh.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"

for data in ${DATA:-binarised_mnist}; do
    for seed in "${seeds[@]}"; do
        for layers in 0 2 4; do
            run configs/expD/base.yaml "configs/expA/additional/$data.yaml" "${more[@]}" \
                "configs/expD/additional/decoder_$layers.yaml" "seed=$seed"
        done
    done
done
finish
"$PYTHON" plot_from_db.py gaps -experiment expD
