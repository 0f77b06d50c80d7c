# shellcheck shell=bash disable=SC2034
# What the sweeps of experiments A to F share; they source it with their arguments.
#   bash experiments/expA/run.sh [FILE.yaml ...]   further configurations, such as configs/short.yaml
#   DATA="digits fashion_mnist"   which data sets      SEEDS="0 1"   which seeds
#   JOBS=2   runs side by side                         EXTRA="a.b=c" further -set assignments
# Finished runs are skipped, runs that were cut off are resumed. A failed run does not stop the
# others: they go on, then the sweep fails as the first one did, without a table. Ctrl-C and SIGTERM
# stop all runs with a checkpoint, then the sweep.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
PYTHON=${PYTHON:-python}
read -ra seeds <<<"${SEEDS:-0}"
read -ra extra <<<"${EXTRA:-}"
more=("$@") # configuration files
JOBS=${JOBS:-1}

usage_error() {
    echo "$0: $1" >&2
    exit 2
}
[[ $JOBS =~ ^[1-9][0-9]*$ ]] || usage_error "JOBS must be a whole number above 0, not '$JOBS'"
((${#seeds[@]} > 0)) || usage_error "SEEDS names no seed"

if ((JOBS > 1)); then
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

processes=() # of all runs begun
commands=()  # what each was begun with

# Set `running` to the processes that go on. Bash can lose a Ctrl-C that comes during $(jobs -rp).
look() { mapfile -t running < <(jobs -rp); }

# Pass a signal on, so that each run writes its checkpoint; the sweep ends after them.
stop() {
    trap '' INT TERM
    sleep 0.02 # a run that has just begun is still a shell, which would drop the signal
    look
    kill "${running[@]}" 2>/dev/null || :
    exit "$1"
}

# run BASE FILE ... KEY=VALUE ...: begin a run as soon as JOBS allows. Always in the background, for
# bash sees to a signal during `wait`, but not while a command in the foreground goes on.
run() {
    local options
    mapfile -t options < <(words "$@")
    look
    while ((${#running[@]} >= JOBS)); do
        wait -n || : # `finish` asks how it ended
        look
    done
    "$PYTHON" main.py "${options[@]}" &
    processes+=($!)
    commands+=("${options[*]@Q}")
}

# run_now BASE FILE ... KEY=VALUE ...: one run to its end; fails if it does.
run_now() {
    run "$@"
    wait "${processes[-1]}"
}

# Wait for all runs; names those that failed, and fails as the first of them, in the sweep's order.
finish() {
    local index status first=0 failures=()
    for index in "${!processes[@]}"; do
        status=0
        wait "${processes[index]}" || status=$?
        ((status == 0)) || failures+=("exit code $status: $PYTHON main.py ${commands[index]}")
        ((first)) || first=$status
    done
    if ((first)); then
        echo "$0: ${#failures[@]} of ${#processes[@]} runs failed:" >&2
        printf '  %s\n' "${failures[@]}" >&2
    fi
    return "$first"
}

# run_id BASE FILE ... KEY=VALUE ...: the id that this run has or would have.
run_id() {
    local options
    mapfile -t options < <(words "$@")
    "$PYTHON" main.py "${options[@]}" --dry-run | sed -n 's/^# run: //p'
}

# Last, for Bash 5.2 cannot see to a signal while it reads a $( or <( of the functions above.
trap 'stop 130' INT
trap 'stop 143' TERM
trap wait EXIT # however the sweep ends, no run outlives it
