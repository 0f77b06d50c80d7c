#!/usr/bin/env bash
# MNIST of the Hamiltonian VAE: the VAE, the Hamiltonian VAE by steps × tempering × step sizes, and
# IWAE with so many samples that its epoch takes as long as that of the Hamiltonian VAE with five
# steps; then the table and the pictures. With configs/hvae_mnist/additional/reduced.yaml, STEPS=5
# and SIZES=chain it takes minutes.
#   STEPS="1 5 10 15 20"                        leapfrog steps
#   TEMPERINGS="none fixed_temperature free"    how momenta are cooled
#   SIZES="chain step"                          one vector of step sizes, or one a step
# Other variables and arguments: see experiments/sweep.sh.
set -euo pipefail
# shellcheck source=experiments/sweep.sh
source "$(dirname "$0")/../sweep.sh"
read -ra steps <<<"${STEPS:-1 5 10 15 20}"
read -ra temperings <<<"${TEMPERINGS:-none fixed_temperature free}"
read -ra sizes <<<"${SIZES:-chain step}"
base=configs/hvae_mnist/base.yaml
additional=configs/hvae_mnist/additional
figures=${VI_RESULTS:-results}/hvae_mnist

"$PYTHON" -m experiments.hvae_mnist.equal_time -additional_configs "${more[@]}" -set "${extra[@]}"
for seed in "${seeds[@]}"; do
    run "$base" "${more[@]}" "seed=$seed"
    run "$base" "$additional/iwae.yaml" "$figures/equal_time.yaml" "${more[@]}" "seed=$seed"
    for number in "${steps[@]}"; do
        for tempering in "${temperings[@]}"; do
            for size in "${sizes[@]}"; do
                # With one step free and fixed tempering, and both kinds of sizes, are the same.
                [[ $number == 1 && ($tempering == free || $size == step) ]] && continue
                run "$base" "$additional/hvae.yaml" "${more[@]}" "seed=$seed" \
                    "posterior.num_steps=$number" "posterior.tempering=$tempering" \
                    "posterior.step_size_per=$size"
            done
        done
    done
done
finish
"$PYTHON" plot_from_db.py table -experiment hvae_mnist
"$PYTHON" plot_from_db.py curves -experiment hvae_mnist --output "$figures/curves.png"
"$PYTHON" plot_from_db.py images -experiment hvae_mnist --output "$figures/images.png" \
    -name samples reconstructions
if [[ " ${steps[*]} " == *" 5 "* && " ${temperings[*]} " == *" free "* && ${sizes[0]} == chain ]]; then
    "$PYTHON" -m experiments.hvae_mnist.trajectories --seeds "${seeds[0]}" \
        -additional_configs "${more[@]}" -set "${extra[@]}"
fi
