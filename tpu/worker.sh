#!/usr/bin/env bash
# What happens on one worker. launch.sh calls it on all of them at once; people may too, over ssh.
#   worker.sh setup SOURCE | check DEVICES PROCESSES GENERATION
#   worker.sh start RUN_ID WORKDIR GENERATION -- [VERB] CONFIG.py a.b=c ... | state | logs LINES | stop
#   worker.sh here RUN_ID WORKDIR GENERATION -- [VERB] CONFIG.py ...    (in a container)
# Below ~/omnihuman/NAME: source/ (this checkout), process (whose number it holds), code (how it ended), log/.
set -euo pipefail
exec 2>&1 # one stream, in order

SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
HOME_OF_RUN=${OMNIHUMAN_ROOT:-$(dirname "$SOURCE")}
HOST=${OMNIHUMAN_WORKER:-$(hostname -s)}
PYTHON=${OMNIHUMAN_PYTHON:-$SOURCE/.venv/bin/python}
readonly SOURCE HOME_OF_RUN HOST PYTHON
mkdir -p "$HOME_OF_RUN/log"
cd "$SOURCE"

answer() { printf 'omnihuman: %s host=%s %s\n' "$1" "$HOST" "$2"; }

do_setup() {
    # Start-up is slow without; JAX warns about it on v5e and later.
    local pages=/sys/kernel/mm/transparent_hugepage/enabled
    if [ -z "${OMNIHUMAN_WORKER:-}" ] && [ -e $pages ]; then
        sudo -n sh -c "echo always > $pages" || true
    fi
    if [ -z "${OMNIHUMAN_WORKER:-}${OMNIHUMAN_PYTHON:-}" ]; then
        .ci/bootstrap tpu
    elif [ ! -x "$PYTHON" ]; then
        echo "There is no $PYTHON yet; run .ci/bootstrap first."
        exit 1
    fi
    answer version "$("$PYTHON" - <<'PYTHON'
import importlib.metadata, pathlib, platform, zlib

def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"

source = zlib.crc32(b"".join(p.read_bytes() for p in sorted(pathlib.Path("omnihuman_jax").glob("**/*.py"))))
names = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain")
print(f"source={source:08x} python={platform.python_version()}", *(f"{n}={version(n)}" for n in names))
PYTHON
)"
}

do_check() {
    chips_are_free
    flags "$3"
    local wide=()
    [ -n "${JAX_COORDINATOR_ADDRESS:-}" ] || wide=(--everywhere)
    local code=0
    timeout "${LAUNCH_CHECK_SECONDS:-900}" "$PYTHON" tpu/check.py --devices "$1" --processes "$2" \
        "${wide[@]}" >"$HOME_OF_RUN/check" 2>&1 || code=$?
    if [ "$code" != 0 ]; then
        sed "s/^/[$HOST] /" "$HOME_OF_RUN/check"
        answer check "failed code=$code"
        return 1
    fi
    answer check "$(tail -n 1 "$HOME_OF_RUN/check")"
}

do_start() {
    if running; then
        answer started "process=$(cat "$HOME_OF_RUN/process") again=yes"
        return
    fi
    chips_are_free
    rm -f "$HOME_OF_RUN/code"
    local log
    log=$HOME_OF_RUN/log/$(date -u +%Y%m%dT%H%M%SZ)-$HOST.log
    # Its own session: it outlives ssh, and `stop` reaches all of it and nothing else.
    # shellcheck disable=SC2094 # it is told where its log is, to send it away
    setsid bash "$SOURCE/tpu/worker.sh" training "$log" "$@" </dev/null >>"$log" 2>&1 3>&- &
    echo $! >"$HOME_OF_RUN/process"
    # Until it has its own name, whoever asks would take it for one that was killed.
    local look
    for ((look = 0; look < 100; look++)); do
        if running || [ -f "$HOME_OF_RUN/code" ]; then break; fi
        sleep 0.05
    done
    answer started "process=$!"
}

# WORKDIR [VERB] WORDS -> COMMAND of the program. Trainings are told their folder; of all others only
# health.json and the logs are there.
command_of() {
    local verb=train
    export OMNIHUMAN_WORKDIR=$1
    shift
    case $1 in
        train | distill | preprocess | convert | generate | evaluate)
            verb=$1
            shift
            ;;
    esac
    COMMAND=("$verb" "$@")
    case $verb in
        train | distill) COMMAND+=(--workdir "$OMNIHUMAN_WORKDIR") ;;
    esac
    [ -n "${JAX_COORDINATOR_ADDRESS:-}" ] || COMMAND+=(--distributed)
}

# In the foreground, where something else (GKE, Vertex AI) keeps the process and its log.
do_here() {
    export OMNIHUMAN_RUN_ID=$1
    local workdir=$2 generation=$3
    shift 4 # and --
    flags "$generation"
    command_of "$workdir" "$@"
    exec "$PYTHON" -m omnihuman_jax "${COMMAND[@]}"
}

# In the background: training, how it ended, and its log sent away once a minute.
do_training() {
    local log=$1 workdir=$3 generation=$4 code=0 child sender
    export OMNIHUMAN_RUN_ID=$2
    shift 5 # and --
    flags "$generation"
    command_of "$workdir" "$@"
    "$PYTHON" -m omnihuman_jax "${COMMAND[@]}" &
    child=$!
    local asked='' last
    trap 'asked=yes; kill -TERM "$child" 2>/dev/null || true' TERM INT
    while :; do
        sleep 60
        send "$log" "$workdir" || true
    done &
    sender=$!
    while :; do
        last=$code code=0
        wait "$child" || code=$?
        [ "$code" != 127 ] || code=$last # it had ended before
        [ -n "$asked" ] || break
        asked='' # a signal has ended the waiting, not training
    done
    kill "$sender" 2>/dev/null || true
    echo "training ended with exit code $code"
    echo "$code" >"$HOME_OF_RUN/code.new"
    mv "$HOME_OF_RUN/code.new" "$HOME_OF_RUN/code"
    send "$log" "$workdir" || echo "the log could not be sent to $workdir/logs"
}

send() { # LOG WORKDIR
    case $2 in
        gs://*) gcloud storage cp --quiet "$1" "$2/logs/$(basename "$1")" >/dev/null 2>&1 ;;
        *) mkdir -p "$2/logs" && cp "$1" "$2/logs/" ;;
    esac
}

running() {
    [ -f "$HOME_OF_RUN/process" ] && [ ! -f "$HOME_OF_RUN/code" ] &&
        grep -qsa training "/proc/$(cat "$HOME_OF_RUN/process")/cmdline"
}

do_state() {
    # In this order: it notes how it ended before it goes, perhaps between two of these questions.
    if running; then
        answer state "state=running process=$(cat "$HOME_OF_RUN/process")"
    elif [ -f "$HOME_OF_RUN/code" ]; then
        answer state "state=ended code=$(cat "$HOME_OF_RUN/code")"
    elif [ -f "$HOME_OF_RUN/process" ]; then
        answer state "state=ended code=137" # nobody was left to note how
    else
        answer state "state=idle"
    fi
}

do_logs() {
    local log
    log=$(find "$HOME_OF_RUN/log" -name '*.log' | sort | tail -n 1)
    [ -n "$log" ] || log=/dev/null
    tail -n "$1" "$log" | sed "s/^/[$HOST] /"
}

do_stop() {
    local second process
    if running; then
        process=$(cat "$HOME_OF_RUN/process")
        kill -TERM "$process" 2>/dev/null || true
        for ((second = 0; second < 10 * ${LAUNCH_GRACE:-180}; second++)); do
            running || break
            sleep 0.1
        done
        # Our own session and nothing else.
        ! running || kill -KILL -- "-$process" 2>/dev/null || true
    fi
    rm -f "$HOME_OF_RUN/process" "$HOME_OF_RUN/code"
    answer stopped ""
}

# libtpu belongs to one process; a lock file that nobody holds is a leftover.
chips_are_free() {
    local holders
    compgen -G '/dev/accel[0-9]*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null || return 0
    holders=$(sudo -n lsof -t /dev/accel* /dev/vfio/[0-9]* 2>/dev/null | sort -u | tr '\n' ' ' || true)
    if [ -n "${holders// /}" ]; then
        echo "The chips of $HOST are held by process ${holders}; end it (ps -p $holders), then again."
        exit 1
    fi
    sudo -n rm -f /tmp/libtpu_lockfile 2>/dev/null || true
}

# GENERATION: flags.txt -> LIBTPU_INIT_ARGS, on one line; what the user has set stands last and wins.
flags() {
    local line who flag all=''
    [ "$1" != cpu ] || return 0
    while IFS= read -r line; do
        line=${line%%#*}
        read -r who flag <<<"$line" || true
        [ -n "$flag" ] || continue
        case ,$who, in
            *,all,* | *,"$1",*) all+="${all:+ }${flag%% *}" ;;
        esac
    done <tpu/flags.txt
    export LIBTPU_INIT_ARGS="$all${LIBTPU_INIT_ARGS:+ $LIBTPU_INIT_ARGS}"
    case $LIBTPU_INIT_ARGS in
        *\\* | *$'\n'*)
            echo "LIBTPU_INIT_ARGS has a backslash or a line break; libtpu stops reading there: $LIBTPU_INIT_ARGS"
            exit 2
            ;;
    esac
}

do_flags() { # for people and tests: what a generation is given
    flags "$1"
    echo "${LIBTPU_INIT_ARGS:-}"
}

case ${1:-} in
    setup | check | start | here | training | state | logs | stop | flags) "do_$1" "${@:2}" ;;
    *)
        echo "worker.sh: setup, check, start, state, logs or stop, not '${1:-}'"
        exit 2
        ;;
esac
