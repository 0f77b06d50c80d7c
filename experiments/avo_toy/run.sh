#!/usr/bin/env bash
# Six toy energies, HVI and IAF by ELBO and by AVO, and AIS; then the figure and the tables.
# Variables and arguments: see experiments/sweep.sh.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"

for seed in "${seeds[@]}"; do
    for energy in a b c d e f; do
        for method in hvi_elbo hvi_avo iaf_elbo iaf_avo ais; do
            run configs/avo_toy/base.yaml "configs/avo_toy/additional/$method.yaml" \
                "${more[@]}" "model.energy=$energy" "seed=$seed"
        done
    done
done
finish
"$PYTHON" -m experiments.avo_toy.figure --seeds "${seeds[@]}" \
    -additional_configs "${more[@]}" -set "${extra[@]}"
