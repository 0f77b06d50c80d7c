# shellcheck shell=bash disable=SC2034
# What the sweeps of experiments A to F share; they source it with their arguments.
#   bash experiments/expA/run.sh [FILE.yaml ...]   further configurations, such as configs/short.yaml
#   DATA="digits fashion_mnist"   which data sets      SEEDS="0 1"   which seeds
#   JOBS=2   runs side by side                         EXTRA="a.b=c" further -set assignments
# Finished runs are skipped, runs that were cut off are resumed.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
PYTHON=${PYTHON:-python}
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
more=("$@") # configuration files

if ((${JOBS:-1} > 1)); then
    share=$(($(nproc) / JOBS))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}
fi

# words BASE [FILE ...] [KEY=VALUE ...]: main.py's options, one a line; EXTRA has the last word.
words() {
    local files=() sets=() word
    for word in "${@:2}"; do
        case $word in
        *=*) sets+=("$word") ;;
        *) files+=("$word") ;;
        esac
    done
    printf '%s\n' -config "$1" -additional_configs "${files[@]}" -set "${sets[@]}" "${extra[@]}"
}

# run BASE FILE ... KEY=VALUE ...: one run, in the background where JOBS allows.
run() {
    local options
    mapfile -t options < <(words "$@")
    if ((${JOBS:-1} == 1)); then
        "$PYTHON" main.py "${options[@]}"
        return
    fi
    while (($(jobs -rp | wc -l) >= JOBS)); do wait -n; done
    "$PYTHON" main.py "${options[@]}" &
}

# Wait for all runs in the background; fails if one of them did.
finish() {
    local process
    for process in $(jobs -p); do wait "$process"; done
}

# run_id BASE FILE ... KEY=VALUE ...: the id that this run has or would have.
run_id() {
    local options
    mapfile -t options < <(words "$@")
    "$PYTHON" main.py "${options[@]}" --dry-run | sed -n 's/^# run: //p'
}
