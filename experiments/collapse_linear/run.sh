#!/usr/bin/env bash
# Linear VAEs with several fixed noises and with a learned one; then the table and the figure of
# active units beside their exact number.
#   bash experiments/collapse_linear/run.sh [FILE.yaml ...]   further files
#   DATA="synthetic mnist"   which data: synthetic (default), mnist
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra data <<<"${DATA:-synthetic}"
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/collapse_linear/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    --vary data "${data[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
"${PYTHON:-python}" -m experiments.collapse_linear.figure --data "${data[@]}" \
    --seeds "${seeds[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
