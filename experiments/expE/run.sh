#!/usr/bin/env bash
# A frozen decoder and a linear encoder with four posteriors; then the gaps.
#   bash experiments/expE/run.sh [FILE.yaml ...]   further files, such as configs/short.yaml
#   DATA="digits fashion_mnist"   which data sets
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra data <<<"${DATA:-binarised_mnist}"
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/expE/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    --vary data "${data[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
