#!/usr/bin/env bash
# Two seeds of a small VAE on 8×8 digits; then the table of its bounds and of what its latent
# dimensions tell, and that of its gaps with their figure.
#   bash experiments/quickstart/run.sh [FILE.yaml ...]   further files
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra seeds <<<"${SEEDS:-0 1}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/quickstart/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
