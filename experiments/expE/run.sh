#!/usr/bin/env bash
# A frozen decoder and a linear encoder with four posteriors.
# Variables and arguments: see experiments/sweep.sh.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"

for data in ${DATA:-binarised_mnist}; do
    for seed in "${seeds[@]}"; do
        decoder=(configs/expE/base.yaml "configs/expA/additional/$data.yaml" "${more[@]}")
        run_now "${decoder[@]}" "phases=[train]" "seed=$seed" || continue # no decoder to take
        trained=$(run_id "${decoder[@]}" "phases=[train]" "seed=$seed")
        for posterior in gaussian aux_real_nvp planar real_nvp; do
            run "${decoder[@]}" "configs/posterior/$posterior.yaml" \
                configs/expE/additional/linear_encoder.yaml \
                "seed=$seed" "initialise.run=$trained"
        done
    done
done
finish
"$PYTHON" plot_from_db.py gaps -experiment expE
