# shellcheck shell=bash disable=SC2034,SC2153 # settings belong to all files of the launcher
# The only place that says what each subcommand does, for machines that we start ourselves: queued, vm, local.
# on_*.sh beside it knows how: machines_state, machines_create, machines_delete, on_workers, send_source, fetch.

do_create() {
    local state
    need_machines
    state=$(machines_state absent)
    case $state in
        ready | waiting)
            say "$NAME is there already ($state)"
            remember
            ;;
        absent)
            remember
            say "$NAME: $TYPE x $SLICES ($((CHIPS * SLICES)) chips, $CAPACITY), deleted after" \
                "$(hours "$(seconds_left)") whatever happens"
            machines_create || not_created
            ;;
        *) fail "$NAME is there and $state; tpu/launch.sh delete $NAME, then create" ;;
    esac
}

not_created() {
    if said 'ALREADY_EXISTS|already exists'; then
        say "$NAME is there already"
        return
    fi
    forget
    explained "$NAME was not created"
}

do_wait() {
    local state began
    need_machines
    began=$(date +%s)
    while :; do
        state=$(machines_state ready)
        case $state in
            ready)
                clock_starts
                say "$NAME is ready"
                return
                ;;
            waiting | unknown) ;;
            absent) fail "$NAME is not there; tpu/launch.sh create $NAME" ;;
            *) fail "$NAME is $state; tpu/launch.sh delete $NAME, then create, or babysit does both" ;;
        esac
        (($(date +%s) - began < $(awk -v h="$WAIT_HOURS" 'BEGIN { printf "%d", h * 3600 }'))) ||
            fail "$NAME is still $state after $WAIT_HOURS hours; try another zone, type or --spot"
        pause 30
    done
}

do_setup() {
    need_machines
    need_workdir
    remember
    send_source || explained "$NAME: the source did not arrive in $WORKDIR"
    worker setup "$SOURCE" || fail "$NAME: a worker could not install; its lines are above"
    agree version "versions of packages" || exit 1
    worker check "$((DEVICES * SLICES))" "$((HOSTS * SLICES))" "$GENERATION" ||
        fail "$NAME: a worker does not see what it should; its lines are above"
    agree check "checks" || exit 1
    ! answers check | grep -v ' ok ' >&2 || fail "$NAME: the check above failed"
    say "$NAME: $((HOSTS * SLICES)) workers, the same versions, $((DEVICES * SLICES)) devices, sums right"
    dry || date +%s >"$STATE/$NAME/installed"
}

do_run() {
    need_machines
    need_workdir
    need_arguments
    remember
    dry || rm -f "$STATE/$NAME/stopped"
    worker start "$RUN_ID" "$WORKDIR" "$GENERATION" -- "${ARGUMENTS[@]}" ||
        fail "$NAME: training did not start on every worker; its lines are above"
    say "$NAME trains as run $RUN_ID; logs: $WORKDIR/logs, tpu/launch.sh logs $NAME"
}

do_logs() {
    need_machines
    worker logs "$LINES" || fail "$NAME: no worker answers; what was sent before is in ${WORKDIR:-WORKDIR}/logs"
}

do_status() {
    local state
    need_machines
    state=$(machines_state ready)
    say "$NAME: $TYPE x $SLICES, $CAPACITY, machines $state, held $(hours "$(seconds_held)") of $MAX_HOURS"
    [ "$state" = ready ] || return 0
    worker state || say "no worker answers"
    [ -n "$WORKDIR" ] || return 0
    fetch "$WORKDIR/health.json" || say "no health.json in $WORKDIR yet"
}

do_stop() {
    need_machines
    dry || touch "$STATE/$NAME/stopped" # babysit lets it be
    worker stop || fail "$NAME: not every worker answers; tpu/launch.sh status $NAME"
    say "training has stopped; the machines stay and cost: tpu/launch.sh delete $NAME"
}

do_delete() {
    local state
    need_machines
    state=$(machines_state ready)
    if [ "$state" = ready ]; then
        worker stop || say "not every worker answers; its newest checkpoint is good"
    fi
    remove_machines
    forget
    say "$NAME is deleted; what it trained is in ${WORKDIR:-its workdir}"
}

# Delete, and look whether they are really gone: what stays costs.
remove_machines() {
    local look state
    for ((look = 0; look < 30; look++)); do
        state=$(machines_state absent)
        if [ "$state" = absent ] && { ! dry || ((look > 0)); }; then
            clock_stops
            return
        fi
        if [ "$state" != going ] && ! machines_delete; then
            said 'NOT_FOUND|not found' || repeat_what_was_said
            ! said 'PERMISSION_DENIED' || break
        fi
        pause 20
    done
    fail "$NAME could not be deleted and still costs; look at https://console.cloud.google.com/compute/tpus"
}
