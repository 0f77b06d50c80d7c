#!/usr/bin/env bash
# Every posterior of configs/posterior on 8×8 digits, two seeds each, then the table.
# Finished runs are skipped, runs that were cut off are resumed.
#   SEEDS="0 1"   which seeds        EXTRA="training.epochs=5"   further -set assignments
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python}
read -ra seeds <<<"${SEEDS:-0 1}"
read -ra extra <<<"${EXTRA:-}"

for seed in "${seeds[@]}"; do
    for posterior in configs/posterior/*.yaml; do
        "$PYTHON" main.py -q -config configs/quickstart/base.yaml -additional_configs "$posterior" \
            -set experiment=flows "seed=$seed" "${extra[@]}"
    done
done
"$PYTHON" plot_from_db.py table -experiment flows
