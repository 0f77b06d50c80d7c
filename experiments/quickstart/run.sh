#!/usr/bin/env bash
# Two seeds of a small VAE on 8×8 digits, then the table of its bounds and of what its latent
# dimensions tell, and that of its gaps with their figure, out of the results database.
# Runs that are finished are skipped, runs that were cut off are resumed.
#   SEEDS="0 1 2"   which seeds          EXTRA="training.epochs=5"   further -set assignments
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python}
read -ra seeds <<<"${SEEDS:-0 1}"
read -ra extra <<<"${EXTRA:-}"

for seed in "${seeds[@]}"; do
    "$PYTHON" main.py -config configs/quickstart/base.yaml \
        -additional_configs configs/quickstart/additional/gaps.yaml \
        -set "seed=$seed" "${extra[@]}"
done
"$PYTHON" plot_from_db.py table -experiment quickstart \
    -name elbo log_px active_units mutual_information
echo
"$PYTHON" plot_from_db.py gaps -experiment quickstart --figure "${VI_RESULTS:-results}/gaps.png"
