#!/usr/bin/env bash
# Five posteriors on Larochelle-Murray MNIST with Cremer et al.'s networks, 50 epochs; then the
# table. The data lie in $VI_DATA (default: ./data).
#   bash experiments/flows/mnist.sh [FILE.yaml ...]   further files
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/flows_mnist/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
