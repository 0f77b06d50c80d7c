#!/usr/bin/env bash
# What noise is learned with an FFG, HVI by ELBO and HVI by AVO; then the figure and the table.
# Variables and arguments: see experiments/sweep.sh.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"

for seed in "${seeds[@]}"; do
    for method in gaussian_elbo hvi_elbo hvi_avo; do
        run configs/avo_biased_noise/base.yaml \
            "configs/avo_biased_noise/additional/$method.yaml" "${more[@]}" "seed=$seed"
    done
done
finish
"$PYTHON" -m experiments.avo_biased_noise.figure --seeds "${seeds[@]}" \
    -additional_configs "${more[@]}" -set "${extra[@]}"
