# shellcheck shell=bash disable=SC2034,SC2153 # settings belong to all files of the launcher
# The only place that keeps a run alive: machines, installation, start, and again, until it is finished.
# It remembers nothing of its own: stopped and started anew, it looks how things are and goes on from there.

do_babysit() {
    need_machines
    need_workdir
    need_arguments
    GOES_ON="Training and its costs go on: tpu/launch.sh babysit $NAME watches again, delete $NAME ends both."
    if dry; then
        rehearse
        return
    fi
    [ "$ON" != local ] || WATCH=2
    remember
    rm -f "$STATE/$NAME/stopped"
    read_health
    FAILURES=0 BEST=$(health step) LAST='' SINCE=$(date +%s) UNREACHED=0
    BEST=${BEST:-0}
    while :; do
        reread
        if [ "$(seconds_left)" = 0 ]; then
            worker stop || true
            read_health
            over "$NAME: --max-hours $MAX_HOURS are over at step $(health step); more of them, and babysit" \
                "goes on from the last checkpoint"
        fi
        case $(machines_state absent) in
            absent)
                rm -f "$STATE/$NAME/installed"
                (do_create) || exit 1 # it has said why
                (do_wait) || again "the machines did not come"
                ;;
            waiting | unknown) (do_wait) || again "the machines did not come" ;;
            ready)
                clock_starts
                tend
                ;;
            *) again "the machines are gone (pre-empted, or failed)" machines ;;
        esac
    done
}

# One look at machines that are ready.
tend() {
    if [ -e "$STATE/$NAME/stopped" ]; then
        say "$NAME was stopped by hand; the machines stay and cost: babysit goes on, delete ends it"
        exit 0
    fi
    if [ ! -e "$STATE/$NAME/installed" ]; then
        (do_setup) || again "the workers could not be set up" machines
        return
    fi
    if ! worker state >"$SCRATCH/shown"; then
        UNREACHED=$((UNREACHED + 1))
        ((UNREACHED < 2)) || again "the workers do not answer" machines
        pause 30
        return
    fi
    UNREACHED=0
    read_health
    case $(workers_are running) in
        idle)
            LAST='' SINCE=$(date +%s)
            (do_run) || again "training did not start"
            ;;
        running)
            look
            pause "${WATCH:-60}"
            ;;
        ended)
            if [ "$(health state)" = finished ]; then
                [ "$KEEP" = yes ] || (remove_machines && forget) || exit 1
                say "run $RUN_ID is finished at step $(health step)$(result)"
                exit 0
            fi
            again "training was told to stop before its end"
            ;;
        refused)
            worker logs "$LINES" || true
            [ "$KEEP" = yes ] || (remove_machines && forget) || exit 1
            say "training refuses its input (exit code 2); its line is above"
            exit 2
            ;;
        failed)
            pause "${WATCH:-20}" # the others notice, and say whom they miss
            worker logs 5 || true
            again "a worker has ended: $(answers state | sed 's/omnihuman: state //' | tr '\n' ';')"
            ;;
    esac
}

# How far a run is; one without a new step for too long has failed.
look() {
    local step
    step=$(health step)
    if [ "$step $(health pieces)" != "$LAST" ]; then
        LAST="$step $(health pieces)" SINCE=$(date +%s)
        [ -z "$step" ] || progress
    elif awk -v now="$(date +%s)" -v then="$SINCE" -v m="$HUNG_MINUTES" 'BEGIN { exit !(now - then > m * 60) }'; then
        worker logs 5 || true
        again "no new step for $HUNG_MINUTES minutes (step $step)"
    fi
}

result() { # where the model is, of a training
    case ${ARGUMENTS[0]:-} in
        preprocess | convert | generate | evaluate) ;;
        *) echo "; its model is in $WORKDIR/model" ;;
    esac
}

progress() {
    local line
    line="step $(health step) of $(health total)"
    case $(health seconds_a_step) in '' | null) ;; *) line+=", $(health seconds_a_step) seconds a step" ;; esac
    [ -z "$(health slow)" ] || line+="; the others wait for $(health slow)"
    say "$line"
}

# WHY [machines]: stop what is left, delete the machines if they are at fault, and try again, not for ever.
again() {
    local step
    read_health
    step=$(health step)
    if ((${step:-0} > BEST)); then
        BEST=$step FAILURES=0
    else
        FAILURES=$((FAILURES + 1))
    fi
    if ((FAILURES >= TRIES)); then
        worker stop || true
        over "$NAME: $1. That was failure $FAILURES in a row without a new step; given up at step ${step:-0}." \
            "The logs are in $WORKDIR/logs"
    fi
    say "$1; run $RUN_ID goes on from its last checkpoint (step ${step:-0} was reached," \
        "$FAILURES of $TRIES failures in a row without a new one)"
    if [ "${2:-}" = machines ]; then
        (remove_machines) || exit 1
        rm -f "$STATE/$NAME/installed"
    elif [ -e "$STATE/$NAME/installed" ]; then
        worker stop >/dev/null || true
    fi
    reread
    LAST='' SINCE=$(date +%s)
    pause $((FAILURES * 10 + 5))
}

over() { # the end without success: nothing that costs is left
    [ "$KEEP" = yes ] || (remove_machines) || true
    fail "$@"
}

# What a subshell has noted of the hours.
reread() {
    local name value
    while IFS='=' read -r name value; do
        case $name in HELD | READY_SINCE) printf -v "$name" '%s' "$value" ;; esac
    done <"$STATE/$NAME/settings"
}

# A dry run: everything once, in order.
rehearse() {
    do_create
    do_wait
    do_setup
    do_run
    worker state
    fetch "$WORKDIR/health.json"
    worker stop
    remove_machines
}
