#!/usr/bin/env bash
# A factorised and a full Gaussian posterior on a model with exact answers, then the table.
#   SEEDS="0 1"   which seeds; each draws another model, so that a table over them mixes models
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python}
read -ra seeds <<<"${SEEDS:-0}"

for seed in "${seeds[@]}"; do
    "$PYTHON" main.py -config configs/linear_gaussian/base.yaml -set "seed=$seed"
    "$PYTHON" main.py -config configs/linear_gaussian/base.yaml \
        -additional_configs configs/linear_gaussian/additional/full.yaml -set "seed=$seed"
done
"$PYTHON" plot_from_db.py table -experiment linear_gaussian -name elbo log_px best_factorised_elbo
