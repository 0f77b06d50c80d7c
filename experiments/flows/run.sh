#!/usr/bin/env bash
# Every posterior of configs/posterior on 8×8 digits; then the table.
#   bash experiments/flows/run.sh [FILE.yaml ...]   further files
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra seeds <<<"${SEEDS:-0 1}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/flows/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
