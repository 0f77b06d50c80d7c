#!/usr/bin/env bash
# Five posteriors side by side on Larochelle-Murray MNIST with Cremer et al.'s networks, 50 epochs,
# the warm-up shortened in proportion; IWAE-5000 on the first 1,000 test images. Then the table.
#   VI_DATA=/path   where the data lies (default: ./data), as main.py reads it
#   SEEDS="0"       which seeds         EXTRA="training.epochs=100"   further -set assignments
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python}
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"

for seed in "${seeds[@]}"; do
    for posterior in gaussian real_nvp aux_real_nvp iaf sylvester_orthogonal; do
        "$PYTHON" main.py -q -config configs/mnist_ffg/base.yaml \
            -additional_configs "configs/posterior/$posterior.yaml" \
            -set experiment=flows_mnist "seed=$seed" training.epochs=50 loss.warmup.epochs=6 \
            evaluation.max_data=1000 "${extra[@]}"
    done
done
"$PYTHON" plot_from_db.py table -experiment flows_mnist
