#!/usr/bin/env bash
# The main table: FFG and q_AF, each measured by both local families.
# Variables and arguments: see experiments/sweep.sh.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"

for data in ${DATA:-binarised_mnist}; do
    for seed in "${seeds[@]}"; do
        for posterior in gaussian aux_real_nvp; do
            run configs/expA/base.yaml "configs/expA/additional/$data.yaml" "${more[@]}" \
                "configs/posterior/$posterior.yaml" "seed=$seed"
        done
    done
done
finish
"$PYTHON" plot_from_db.py gaps -experiment expA
