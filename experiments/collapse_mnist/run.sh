#!/usr/bin/env bash
# A small and a wide decoder, trained plainly and by each remedy; then the table and the figure of
# the dimensions' KL.
#   bash experiments/collapse_mnist/run.sh [FILE.yaml ...]   further files
#   DATA=mnist   the data set: digits (default) or mnist
#   DECODERS="small wide"   METHODS="elbo free_bits"
#       which files of configs/collapse_mnist/additional
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
sweep=configs/collapse_mnist/sweep.yaml
[[ ${DATA:-digits} == digits ]] || sweep=configs/collapse_mnist/sweep_$DATA.yaml
read -ra decoders <<<"${DECODERS:-small wide}"
read -ra methods <<<"${METHODS:-elbo kl_warmup cyclical free_bits encoder_steps iwae iaf hvi_avo}"
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py "$sweep" \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    --vary decoder "${decoders[@]}" --vary method "${methods[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
