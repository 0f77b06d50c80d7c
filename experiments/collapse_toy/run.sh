#!/usr/bin/env bash
# One latent on a stretched circle: six ways to train, four seeds; then the table and the figure of
# trajectories on the plane of means.
#   METHODS="elbo hvi_avo"     which files of configs/collapse_toy/additional
# Other variables and arguments: see experiments/sweep.sh.
set -euo pipefail
SEEDS=${SEEDS:-0 1 2 3}
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"
read -ra methods <<<"${METHODS:-elbo kl_warmup encoder_steps iwae hvi_elbo hvi_avo}"

for seed in "${seeds[@]}"; do
    for method in "${methods[@]}"; do
        run configs/collapse_toy/base.yaml "configs/collapse_toy/additional/$method.yaml" \
            "${more[@]}" "seed=$seed"
    done
done
finish
"$PYTHON" -m experiments.collapse_toy.figure --methods "${methods[@]}" --seeds "${seeds[@]}" \
    -additional_configs "${more[@]}" -set "${extra[@]}"
