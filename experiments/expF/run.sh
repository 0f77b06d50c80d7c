#!/usr/bin/env bash
# Gaps over training, on training and held-out images: FFG, q_AF, a large encoder, a large decoder.
#   bash experiments/expF/run.sh [FILE.yaml ...]   further files, such as configs/short.yaml
#   DATA="digits fashion_mnist"   which data sets
#   EPOCHS="1 10"   which epochs are kept and measured
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra data <<<"${DATA:-fashion_mnist}"
read -ra epochs <<<"${EPOCHS:-10 30 100 300 1000 2000 3280}"
kept=$(IFS=,; echo "${epochs[*]}")
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/expF/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    --vary data "${data[@]}" \
    --vary initialise.weights "${epochs[@]}" \
    -additional_configs "$@" -set "runtime.keep_epochs=[$kept]" "${extra[@]}"
