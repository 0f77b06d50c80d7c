#!/usr/bin/env bash
# A small and a wide decoder, trained plainly and by each remedy; then the table and the figure of
# the dimensions' KL.
#   DATA=mnist                 the data set: digits (default) or mnist
#   DECODERS="small wide"      METHODS="elbo free_bits"   which files of configs/collapse_mnist
# Other variables and arguments: see experiments/sweep.sh.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"
data=${DATA:-digits}
read -ra decoders <<<"${DECODERS:-small wide}"
read -ra methods <<<"${METHODS:-elbo kl_warmup cyclical free_bits encoder_steps iwae iaf hvi_avo}"
additional=configs/collapse_mnist/additional

for seed in "${seeds[@]}"; do
    for decoder in "${decoders[@]}"; do
        for method in "${methods[@]}"; do
            length=()
            case $data/$method in
            mnist/kl_warmup) length=(loss.warmup.epochs=5) ;;
            mnist/cyclical) length=(loss.warmup.period=2) ;;
            esac
            run configs/collapse_mnist/base.yaml "$additional/$data.yaml" \
                "$additional/$decoder.yaml" "$additional/$method.yaml" "${more[@]}" \
                "${length[@]}" "seed=$seed" "experiment=collapse_$data"
        done
    done
done
finish
"$PYTHON" plot_from_db.py table -experiment "collapse_$data" \
    -name elbo log_px active_units kl mutual_information
"$PYTHON" plot_from_db.py units -experiment "collapse_$data" \
    --output "${VI_RESULTS:-results}/collapse_$data.png"
