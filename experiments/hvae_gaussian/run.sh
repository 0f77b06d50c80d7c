#!/usr/bin/env bash
# The Gaussian model of the Hamiltonian VAE: every method in every dimension, three data sets; then
# the table and the figures. With configs/hvae_gaussian/additional/reduced.yaml, DIMS="25 50" and
# SEEDS=0 it takes minutes.
#   bash experiments/hvae_gaussian/run.sh [FILE.yaml ...]   further files
#   DIMS="25 51 101 201 301"   which dimensions; these are the paper's from 25 on
#   METHODS="hvae_1 vb"   which files of configs/hvae_gaussian/additional
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra dims <<<"${DIMS:-25 50 100 200 300 400}"
read -ra methods <<<"${METHODS:-}"
chosen=() drawn=()
if [[ ${#methods[@]} -gt 0 ]]; then
    chosen=(--vary method "${methods[@]}") drawn=(--methods "${methods[@]}")
fi
read -ra seeds <<<"${SEEDS:-0 1 2}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/hvae_gaussian/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    --vary data.data_seed "${seeds[@]}" \
    --vary data.dim "${dims[@]}" "${chosen[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
"${PYTHON:-python}" -m experiments.hvae_gaussian.figure --seeds "${seeds[@]}" --dims "${dims[@]}" \
    "${drawn[@]}" -additional_configs "$@" -set "${extra[@]}"
