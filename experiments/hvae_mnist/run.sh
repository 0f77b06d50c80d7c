#!/usr/bin/env bash
# MNIST of the Hamiltonian VAE: the VAE, IWAE with so many samples that its epoch takes as long as
# that of the Hamiltonian VAE with five steps, and the Hamiltonian VAE by steps × tempering × step
# sizes; then the table and the pictures. With configs/hvae_mnist/additional/reduced.yaml, STEPS=5
# and SIZES=chain it takes minutes.
#   bash experiments/hvae_mnist/run.sh [FILE.yaml ...]   further files
#   STEPS="1 5 10 15 20"   leapfrog steps
#   TEMPERINGS="none fixed_temperature free"   how momenta are cooled
#   SIZES="chain step"   one vector of step sizes, or one a step
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra steps <<<"${STEPS:-1 5 10 15 20}"
read -ra temperings <<<"${TEMPERINGS:-none fixed_temperature free}"
read -ra sizes <<<"${SIZES:-chain step}"
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
failed=0
measured=$("${PYTHON:-python}" -m experiments.hvae_mnist.equal_time \
    -additional_configs "$@" -set "${extra[@]}")
echo "$measured"
"${PYTHON:-python}" sweep.py configs/hvae_mnist/sweep_beside.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    --vary loss "{name: elbo}" "${measured##*loss: }" \
    -additional_configs "$@" -set "${extra[@]}" || failed=$?
((failed <= 1)) || exit "$failed" # what failed does not keep the others from being done
"${PYTHON:-python}" sweep.py configs/hvae_mnist/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    --vary posterior.num_steps "${steps[@]}" \
    --vary posterior.tempering "${temperings[@]}" \
    --vary posterior.step_size_per "${sizes[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
if [[ " ${steps[*]} " == *" 5 "* && " ${temperings[*]} " == *" free "* && ${sizes[0]} == chain ]]; then
    "${PYTHON:-python}" -m experiments.hvae_mnist.trajectories --seeds "${seeds[0]}" \
        -additional_configs "$@" -set "${extra[@]}"
fi
exit "$failed"
