# shellcheck shell=bash disable=SC2034,SC2153 # settings belong to all files of the launcher
# The only place that knows queued resources, the way Google advises to ask for TPUs.

# shellcheck source=/dev/null
. "$TPU/lib/remote.sh"
# shellcheck source=/dev/null
. "$TPU/lib/gcloud.sh"

machines_state() {
    local state
    if dry; then
        tpus queued-resources describe "$NAME" '--format=value(state.state)'
        echo "$1"
        return
    fi
    if ! state=$(tpus queued-resources describe "$NAME" '--format=value(state.state)'); then
        if said 'NOT_FOUND|not found'; then echo absent; else echo unknown; fi
        return
    fi
    case $state in
        ACTIVE) echo ready ;;
        SUSPENDED | SUSPENDING) echo lost ;;
        FAILED) echo failed ;;
        DELETING) echo going ;;
        '') echo unknown ;;
        *) echo waiting ;; # ACCEPTED, WAITING_FOR_RESOURCES, PROVISIONING, CREATING
    esac
}

machines_create() {
    local words=(--accelerator-type="$TYPE" --runtime-version="$RUNTIME")
    if ((SLICES > 1)); then
        words+=(--node-count="$SLICES" --node-prefix="$NAME")
    else
        words+=(--node-id="$NAME")
    fi
    case $CAPACITY in
        spot) words+=(--spot) ;;
        reserved) words+=(--reserved) ;;
    esac
    words+=(--valid-until-duration="$(awk -v h="$WAIT_HOURS" 'BEGIN { printf "%d", h * 3600 }')s")
    common_words
    tpus queued-resources create "$NAME" "${words[@]}" "${COMMON[@]}"
}

machines_delete() {
    tpus queued-resources delete "$NAME" --force
}
