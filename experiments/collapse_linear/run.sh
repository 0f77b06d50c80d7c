#!/usr/bin/env bash
# Linear VAEs with several fixed noises and with a learned one; then the table and the figure of
# active units beside their exact number.
#   DATA="synthetic mnist"     which data: synthetic (default), mnist
# Other variables and arguments: see experiments/sweep.sh.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"
read -ra data <<<"${DATA:-synthetic}"

for seed in "${seeds[@]}"; do
    for name in "${data[@]}"; do
        case $name in
        synthetic) scales=(0.6 0.85 1.2 1.7 2.2) ;;
        mnist) scales=(0.5 0.7 1.0 1.5 2.3) ;;
        *) usage_error "DATA: there is no '$name', only synthetic and mnist" ;;
        esac
        file=configs/collapse_linear/additional/$name.yaml
        for scale in "${scales[@]}"; do
            run configs/collapse_linear/base.yaml "$file" "${more[@]}" \
                "model.scale=$scale" "seed=$seed"
        done
        run configs/collapse_linear/base.yaml "$file" "${more[@]}" \
            model.learn_scale=true "seed=$seed"
    done
done
finish
"$PYTHON" -m experiments.collapse_linear.figure --data "${data[@]}" --seeds "${seeds[@]}" \
    -additional_configs "${more[@]}" -set "${extra[@]}"
