#!/usr/bin/env bash
# Amortised inference: VAE, Householder, ccIAF, IAF, HVI by ELBO and by AVO; then the table.
#   bash experiments/avo_mnist/run.sh [FILE.yaml ...]   further files
#   DATA="mnist omniglot"   which data sets: mnist, fashion_mnist, omniglot, celeba
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra data <<<"${DATA:-mnist}"
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/avo_mnist/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    --vary data "${data[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
