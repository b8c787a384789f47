# shellcheck shell=bash disable=SC2034,SC2153 # settings belong to all files of the launcher
# The only place that knows plain TPU VMs: there at once, or refused.

# shellcheck source=/dev/null
. "$TPU/lib/remote.sh"
# shellcheck source=/dev/null
. "$TPU/lib/gcloud.sh"

machines_state() {
    local state
    if dry; then
        tpus tpu-vm describe "$NAME" '--format=value(state)'
        echo "$1"
        return
    fi
    if ! state=$(tpus tpu-vm describe "$NAME" '--format=value(state)'); then
        if said 'NOT_FOUND|not found'; then echo absent; else echo unknown; fi
        return
    fi
    case $state in
        READY) echo ready ;;
        PREEMPTED | TERMINATED | STOPPED | STOPPING | HIDING | HIDDEN) echo lost ;;
        DELETING) echo going ;;
        '') echo unknown ;;
        *) echo waiting ;; # CREATING, STARTING, RESTARTING, REPAIRING
    esac
}

machines_create() {
    local words=(--accelerator-type="$TYPE" --version="$RUNTIME")
    case $CAPACITY in
        spot) words+=(--spot) ;;
        reserved) words+=(--reserved) ;;
    esac
    common_words
    tpus tpu-vm create "$NAME" "${words[@]}" "${COMMON[@]}"
}

machines_delete() {
    tpus tpu-vm delete "$NAME"
}
