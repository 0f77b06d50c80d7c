#!/usr/bin/env bash
# The Gaussian model of the Hamiltonian VAE: every method in every dimension, three data sets; then
# the table and the figures. With configs/hvae_gaussian/additional/reduced.yaml, DIMS="25 50" and
# SEEDS=0 it takes minutes.
#   DIMS="25 51 101 201 301"   which dimensions; these are the paper's from 25 on
#   METHODS="hvae_1 vb"        which files of configs/hvae_gaussian/additional
#   SEEDS="0 1 2"              which data sets; each has a run of the same seed
# Other variables and arguments: see experiments/sweep.sh.
set -euo pipefail
SEEDS=${SEEDS:-0 1 2}
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"
read -ra dims <<<"${DIMS:-25 50 100 200 300 400}"
read -ra methods <<<"${METHODS:-hvae_1 hvae_10 hvae_1_untempered hvae_10_untempered \
planar_1 planar_30 iaf planar_1_without_half planar_30_without_half iaf_without_half vb full}"

for seed in "${seeds[@]}"; do
    for dim in "${dims[@]}"; do
        for method in "${methods[@]}"; do
            run configs/hvae_gaussian/base.yaml "configs/hvae_gaussian/additional/$method.yaml" \
                "${more[@]}" "data.dim=$dim" "data.data_seed=$seed" "seed=$seed"
        done
    done
done
finish
"$PYTHON" -m experiments.hvae_gaussian.figure --seeds "${seeds[@]}" --dims "${dims[@]}" \
    --methods "${methods[@]}" -additional_configs "${more[@]}" -set "${extra[@]}"
