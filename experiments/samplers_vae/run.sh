#!/usr/bin/env bash
# Chains of K gradients as posteriors of one trained decoder; then the table and the figure.
#   bash experiments/samplers_vae/run.sh [FILE.yaml ...]   configs/samplers_vae/short.yaml: minutes
#   STEPS="0 1 4 16"   which K: 0 1 4 16 64
#   METHODS="gaussian uha"   which files of configs/samplers_vae/method; gaussian is K = 0
#   SEEDS="0 1"   which seeds   JOBS=2   runs side by side   EXTRA="a.b=c"   further assignments
# Finished runs are skipped, runs that were cut off go on: docs/sweeps.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra steps <<<"${STEPS:-0 1 4 16 64}"
read -ra methods <<<"${METHODS:-gaussian langevin annealed_mala hamiltonian hamiltonian_vi uha ldvi mcd cmcd}"
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
"${PYTHON:-python}" sweep.py configs/samplers_vae/sweep.yaml \
    --jobs "${JOBS:-1}" --seeds "${seeds[@]}" \
    --vary posterior.num_steps "${steps[@]}" --vary method "${methods[@]}" \
    -additional_configs "$@" -set "${extra[@]}"
