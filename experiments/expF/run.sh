#!/usr/bin/env bash
# Gaps over training, on training and held-out images: FFG, q_AF, a large encoder, a large decoder.
# Variables and arguments: see experiments/sweep.sh; EPOCHS="1 10" says which epochs are measured.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"
read -ra epochs <<<"${EPOCHS:-10 30 100 300 1000 2000 3280}"
kept="runtime.keep_epochs=[$(IFS=,; echo "${epochs[*]}")]"

for data in ${DATA:-fashion_mnist}; do
    for seed in "${seeds[@]}"; do
        for variant in configs/posterior/{gaussian,aux_real_nvp}.yaml \
            configs/expF/additional/large_{encoder,decoder}.yaml; do
            model=(configs/expF/base.yaml "configs/expA/additional/$data.yaml" "${more[@]}"
                "$variant" "seed=$seed" "$kept")
            run_now "${model[@]}" "phases=[train]" || continue # nothing to measure
            trained=$(run_id "${model[@]}" "phases=[train]")
            for epoch in "${epochs[@]}"; do
                run "${model[@]}" configs/expF/additional/measure.yaml \
                    "initialise.run=$trained" "initialise.weights=$epoch"
            done
        done
    done
done
finish
"$PYTHON" plot_from_db.py gaps -experiment expF --over-training
