# shellcheck shell=bash disable=SC2034,SC2153 # settings belong to all files of the launcher
# The only place that plays a pod on this machine: each worker is a process, each has a folder as its disk.
# What workers do is the same worker.sh; a test kills one and sees the run end in the same bits.

# shellcheck source=/dev/null
. "$TPU/lib/remote.sh"

need_machines() { :; }

machines_state() {
    if dry; then echo "$1"; elif [ -d "$STATE/$NAME/workers" ]; then echo ready; else echo absent; fi
}
machines_create() { once mkdir -p "$STATE/$NAME/workers"; }
machines_delete() { once rm -rf "$STATE/$NAME/workers"; }
send_source() { SOURCE=$ROOT; }
fetch() {
    case $1 in
        gs://*) once gcloud storage cat "$1" ;;
        *) once cat "$1" ;;
    esac
}

on_workers() {
    local number code=0 jobs=() port words
    if dry; then
        port=9000
    else
        port=$(free_port)
    fi
    for ((number = 0; number < HOSTS; number++)); do
        words=(env "OMNIHUMAN_ROOT=$STATE/$NAME/workers/$number" "OMNIHUMAN_WORKER=worker-$number"
            "JAX_COORDINATOR_ADDRESS=127.0.0.1:$port" "JAX_NUM_PROCESSES=$HOSTS" "JAX_PROCESS_ID=$number"
            bash "$TPU/worker.sh" "$@")
        if dry; then
            once "${words[@]}"
            continue
        fi
        once "${words[@]}" >"$SCRATCH/from-$number" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do
        wait "$job" || code=$?
    done
    dry || for ((number = 0; number < HOSTS; number++)); do cat "$SCRATCH/from-$number"; done
    return "$code"
}

free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}
